package schema_test

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

//go:embed testdata/platform_new.sql
var platformNewSQL string

// readRoute runs a route's statement as the platform's API does and returns its
// rows as text.
func readRoute(ctx context.Context, pool *pgxpool.Pool, r schema.Route) (rows []string, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if r.Operator {
			if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+schema.OperatorRole); err != nil {
				return err
			}
		}
		result, err := tx.Query(ctx, r.SQL)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(result, func(row pgx.CollectableRow) (string, error) {
			values, err := row.Values()
			return fmt.Sprint(values...), err
		})
		return err
	})
	return rows, err
}

func wantRoutes(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for _, r := range schema.Routes() {
		var stands bool
		if err := pool.QueryRow(t.Context(), "SELECT $1 = '' OR to_regclass($1) IS NOT NULL", r.If).Scan(&stands); err != nil {
			t.Fatal(err)
		}
		if _, err := readRoute(t.Context(), pool, r); err != nil && stands {
			t.Errorf("route %s: %v", r.Name, err)
		}
	}
}

func migrate(t *testing.T, pool *pgxpool.Pool) []schema.Change {
	t.Helper()
	changes, err := schema.MigrateUp(t.Context(), pool, false)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// describe is every table, view, index and routine, a line each.
func describe(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT format('%s.%s %s%s%s', c.table_name, c.column_name, c.data_type, ' default ' || c.column_default, CASE c.is_nullable WHEN 'NO' THEN ' not null' END)
		FROM information_schema.columns c WHERE c.table_schema = 'public'
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
		UNION ALL SELECT 'function ' || routine_name FROM information_schema.routines WHERE routine_schema = 'public'
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func linesOf(lines []string, relations ...string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		return !slices.ContainsFunc(relations, func(r string) bool {
			return strings.HasPrefix(line, r+".") || strings.Contains(line, " ON public."+r+" ")
		})
	})
}

func TestMigrationsOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewEmpty(t).Pool(t)
	migrate(t, pool)
	wantRoutes(t, pool)

	want := []string{
		"CREATE INDEX idx_system_metrics_name_service_time ON public.system_metrics USING btree (metric_name, service, \"time\" DESC) INCLUDE (value)",
		"CREATE INDEX idx_system_metrics_name_time ON public.system_metrics USING btree (metric_name, \"time\" DESC)",
		"CREATE INDEX idx_system_metrics_service_time ON public.system_metrics USING btree (service, \"time\" DESC) WHERE (service IS NOT NULL)",
		"CREATE UNIQUE INDEX service_health_pkey ON public.service_health USING btree (service)",
		"service_health.checked_at timestamp with time zone default now() not null",
		"service_health.details jsonb default '{}'::jsonb not null",
		"service_health.latency_ms integer",
		"service_health.service text not null",
		"service_health.status text not null",
		"system_metrics.metric_name text not null",
		"system_metrics.service text",
		"system_metrics.tags jsonb default '{}'::jsonb",
		"system_metrics.time timestamp with time zone not null",
		"system_metrics.value double precision not null",
	}
	if diff := cmp.Diff(want, linesOf(describe(t, pool), "service_health", "system_metrics")); diff != "" {
		t.Error(diff)
	}
	var index string
	if err := pool.QueryRow(t.Context(), "SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_fleet_alert_open_uq'").Scan(&index); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(index, "UNIQUE") || !strings.HasSuffix(index, "(tenant_id, fingerprint) WHERE (status = 'OPEN'::text)") {
		t.Errorf("index: %s", index)
	}
	// The platform's own, on what the worker makes in its place.
	pgtest.WantRows(t, pool, `SELECT count(*) FROM pg_indexes WHERE schemaname = 'public' AND indexname IN ('idx_fleet_alert_tenant', 'idx_fleet_alert_created',
		'idx_device_state_status', 'idx_device_registry_status', 'delivery_jobs_pending_idx', 'delivery_jobs_tenant_status_idx', 'idx_quarantine_ingested',
		'operator_audit_log_created_idx')`, "8")
	var bound int
	if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pg_policies) + (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)").Scan(&bound); err != nil || bound != 0 {
		t.Errorf("%d policies and triggers, %v; what stands in for the platform's tables has none", bound, err)
	}
}

// What is looked for at every start is what the migrations make.
func TestTheWorkersOwnRelationsAreThoseOfItsMigrations(t *testing.T) {
	t.Parallel()
	want := schema.OwnRelations()
	slices.Sort(want)
	got := pgtest.Rows(t, pgtest.New(t).Pool(t), `
		SELECT c.relname
		FROM pg_class c
		LEFT JOIN pg_index i ON i.indexrelid = c.oid
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'i') AND NOT coalesce(i.indisprimary, false)
		  AND coalesce(obj_description(coalesce(i.indrelid, c.oid), 'pg_class'), '') NOT LIKE 'created by ops_worker%'
		  AND coalesce(i.indrelid, c.oid) NOT IN ('ops_worker_schema_version'::regclass, 'ops_worker_schema_lock'::regclass, 'schema_migrations'::regclass)
		ORDER BY c.relname COLLATE "C"`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMigrationsTwiceChangeNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	before := describe(t, pool)
	if changes := migrate(t, pool); len(changes) != 0 {
		t.Errorf("the second time did %v", changes)
	}
	if diff := cmp.Diff(before, describe(t, pool)); diff != "" {
		t.Error(diff)
	}
}

func TestMigrationsOfReplicasThatStartTogether(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	var starting sync.WaitGroup
	for range 4 {
		pool := database.Pool(t)
		starting.Go(func() {
			if _, err := schema.MigrateUp(t.Context(), pool, false); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	wantRoutes(t, database.Pool(t))
}

func TestMigrationsLeaveThePlatformsTablesAsTheyAre(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, platformNewSQL)
	pool := database.Pool(t)
	var platform []string
	if err := pool.QueryRow(t.Context(), "SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public'").Scan(&platform); err != nil {
		t.Fatal(err)
	}
	before := linesOf(describe(t, pool), platform...)
	migrate(t, pool)
	if diff := cmp.Diff(before, linesOf(describe(t, pool), platform...)); diff != "" {
		t.Errorf("the platform's tables changed: %s", diff)
	}
	wantRoutes(t, pool)
}

func TestDownRemovesWhatIsOursAndNothingElse(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, platformNewSQL)
	pool := database.Pool(t)
	before := describe(t, pool)
	migrate(t, pool)
	if _, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	after := slices.DeleteFunc(describe(t, pool), func(line string) bool { return strings.Contains(line, "ops_worker_schema_") })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
	if changes := migrate(t, pool); len(changes) == 0 {
		t.Error("up after down did nothing")
	}
	wantRoutes(t, pool)
}

func TestDownStopsAtWhatThePlatformBuiltOnOurTables(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "CREATE VIEW the_platforms AS SELECT * FROM system_metrics")
	pool := database.Pool(t)
	if _, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true}); err == nil || !strings.Contains(err.Error(), "the_platforms") && !strings.Contains(err.Error(), "2BP01") {
		t.Errorf("down: %v", err)
	}
	if _, err := pool.Exec(t.Context(), "SELECT FROM the_platforms"); err != nil {
		t.Error(err)
	}
}

func TestStatusListsEveryMigration(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	if _, err := schema.Down(t.Context(), pool, schema.DownOptions{}); err != nil {
		t.Fatal(err)
	}
	states, err := schema.Status(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range states {
		if pending := i == len(states)-1; s.AppliedAt.IsZero() != pending {
			t.Errorf("%s: applied at %s", s.Name, s.AppliedAt)
		}
	}
}

func TestWithOnePoolConnectionMigrationsStillRun(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	pool, err := db.Open(t.Context(), db.Options{URL: database.URL, MaxConns: 1, ConnectTimeout: 5e9, ApplicationName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	migrate(t, pool)
}

// What sqlc believes of goose's table is what goose makes.
func TestGoosesTableForSqlcIsWhatGooseMakes(t *testing.T) {
	t.Parallel()
	believed := pgtest.NewEmpty(t)
	believed.Exec(t, readFile(t, "../../sql/goose.sql"))
	columns := func(pool *pgxpool.Pool) []string { return linesOf(describe(t, pool), "ops_worker_schema_version") }
	if diff := cmp.Diff(columns(believed.Pool(t)), columns(pgtest.New(t).Pool(t))); diff != "" {
		t.Error(diff)
	}
}

// Each file under sql/platform makes what it is named for, and nothing else.
func TestEveryFileOfThePlatformMakesWhatItIsNamedFor(t *testing.T) {
	t.Parallel()
	made := pgtest.NewEmpty(t)
	for _, name := range schema.PlatformTables() {
		made.Exec(t, readFile(t, "../../sql/platform/tables/"+name+".sql"))
	}
	stands, err := schema.StandingRelations(t.Context(), db.New(made.Pool(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(stands) != len(schema.PlatformTables()) {
		t.Errorf("%d files made %v", len(schema.PlatformTables()), stands)
	}
	if len(schema.StandIns()) != 2 || len(schema.Routes()) < 15 {
		t.Errorf("%d stand-ins and %d routes: are the files read?", len(schema.StandIns()), len(schema.Routes()))
	}
	for _, s := range schema.StandIns() {
		if !slices.Contains(schema.PlatformTables(), s.Name) {
			t.Errorf("%s stands in for a table that has no first form", s.Name)
		}
	}
	for _, r := range schema.Routes() {
		if strings.Contains(r.Name, " as ") || strings.Contains(r.Name, " if ") || !strings.HasSuffix(r.SQL, ";") {
			t.Errorf("the head of a route is not understood: %+v", r)
		}
	}
}

func TestDownRefusesWhileAWorkerCollects(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, `INSERT INTO ops_worker_lease (name, holder, epoch, acquired_at, expires_at, ttl)
		VALUES ('ops_worker', 'host/1/a', 1, now(), now() + interval '1 minute', '1 minute')`)
	pool := database.Pool(t)
	before := describe(t, pool)
	if changes, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true}); err == nil || !strings.Contains(err.Error(), "host/1/a collects into these tables") || len(changes) != 0 {
		t.Errorf("down: %v, %v", changes, err)
	}
	if diff := cmp.Diff(before, describe(t, pool)); diff != "" {
		t.Error(diff)
	}
	if _, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true, Force: true}); err != nil {
		t.Error(err)
	}
}

// What was done before a migration failed is told, and once it is mended the rest
// goes on.
func TestDownThatFailsHalfWayGoesOn(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "CREATE VIEW the_platforms AS SELECT * FROM system_metrics")
	pool := database.Pool(t)
	changes, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true})
	if err == nil || len(changes) != 6 || changes[5].Object != "00002_lease.sql" {
		t.Errorf("down: %v, %v", changes, err)
	}
	database.Exec(t, "DROP VIEW the_platforms")
	changes, err = schema.Down(t.Context(), pool, schema.DownOptions{All: true})
	if err != nil || len(changes) != 1 {
		t.Errorf("down again: %v, %v", changes, err)
	}
	pgtest.WantRows(t, pool, "SELECT to_regclass('system_metrics') IS NULL", "true")
}

func TestUpThatFailsHalfWayTellsWhatItDid(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, "CREATE DOMAIN ops_worker_lease AS integer") // in the way of the table
	changes, err := schema.MigrateUp(t.Context(), database.Pool(t), false)
	if err == nil || !slices.ContainsFunc(changes, func(c schema.Change) bool { return strings.Contains(c.Object, "00001") }) {
		t.Errorf("up: %v, %v", changes, err)
	}
}

// A server that refuses for good is not asked for two minutes long.
func TestWhatIsForbiddenFailsAtOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	_, address := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	began := time.Now()
	if _, err := schema.MigrateUp(t.Context(), database.PoolAs(t, address), false); err == nil || !strings.Contains(err.Error(), "42501") {
		t.Errorf("up: %v", err)
	}
	applied := pgtest.New(t)
	applied.Exec(t, "DELETE FROM ops_worker_schema_version WHERE version_id >= 3")
	_, address = applied.Role(t, "NOSUPERUSER")
	applied.Exec(t, "GRANT ALL ON schema_migrations TO PUBLIC; GRANT SELECT ON ops_worker_schema_version TO PUBLIC")
	if _, err := schema.MigrateUp(t.Context(), applied.PoolAs(t, address), false); err == nil || !strings.Contains(err.Error(), "42501") {
		t.Errorf("up without rights to the lock: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("that took %s", took)
	}
}

// A database is brought forward whichever commit has prepared it.
func TestEveryEarlierStateIsBroughtForward(t *testing.T) {
	t.Parallel()
	const first = `name text PRIMARY KEY, holder text NOT NULL, epoch bigint NOT NULL, acquired_at timestamptz NOT NULL,
		expires_at timestamptz NOT NULL, last_cycle_at timestamptz NOT NULL DEFAULT 'epoch'`
	// Their 00003 was another.
	const functions = "CREATE FUNCTION ops_worker_retention_mode() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'; DROP TABLE ops_worker_streak;"
	for name, test := range map[string]struct {
		lease    string // its columns
		migrated int    // the newest migration
		prepare  string
	}{
		"da504ff, 3dff827": {first, 3, functions},
		"ea23ad1":          {first + ", ttl interval NOT NULL", 2, "DROP TABLE ops_worker_streak"},
		"b6e0178":          {first + ", ttl interval NOT NULL, last_holder text NOT NULL DEFAULT '', cycle_interval interval NOT NULL DEFAULT '0'", 2, "DROP TABLE ops_worker_streak"},
		"6e87d87":          {first + ", ttl interval NOT NULL, last_holder text NOT NULL DEFAULT '', cycle_interval interval NOT NULL DEFAULT '0'", 3, "SELECT"},
		"a lease dropped":  {"", 3, functions},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			pool := database.Pool(t)
			want := describe(t, pool)
			database.Exec(t, fmt.Sprintf("DROP TABLE ops_worker_lease; DELETE FROM ops_worker_schema_version WHERE version_id > %d; %s", test.migrated, test.prepare))
			ttl := ""
			if test.lease != "" {
				database.Exec(t, "CREATE TABLE ops_worker_lease ("+test.lease+")")
				if strings.Contains(test.lease, "ttl") {
					ttl = "ttl, "
				}
				database.Exec(t, fmt.Sprintf("INSERT INTO ops_worker_lease (%sname, holder, epoch, acquired_at, expires_at) SELECT %s 'ops_worker', 'the old one', 7, now(), now() + interval '10 seconds'",
					ttl, strings.ReplaceAll(ttl, "ttl", "interval '15 seconds'")))
			}
			migrate(t, pool)
			got := slices.DeleteFunc(describe(t, pool), func(line string) bool { return line == "function ops_worker_retention_mode" })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if changes := migrate(t, pool); len(changes) != 0 {
				t.Errorf("the second time did %v", changes)
			}
			if test.lease != "" {
				lease, err := db.New(pool).ReadLease(t.Context(), db.LeaseName)
				if err != nil || !lease.Held || lease.Holder != "the old one" {
					t.Errorf("the lease of the worker that still runs: %+v, %v", lease, err)
				}
			}
			if _, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true, Force: true}); err != nil {
				t.Fatal(err)
			}
			pgtest.WantRows(t, pool, "SELECT proname FROM pg_proc WHERE proname LIKE 'ops\\_worker%'")
		})
	}
}

// The index that /metrics/latest reads is made for it where that costs nothing and takes
// nothing from others: of an empty table of ours, which is no hypertable.
func TestTheIndexOfTheLatestSamples(t *testing.T) {
	t.Parallel()
	const (
		plain    = `(metric_name, service, "time" DESC)`
		covering = plain + " INCLUDE (value)"
	)
	for name, test := range map[string]struct {
		prepare string
		index   string
		options int
	}{
		"empty":          {"SELECT", covering, 4},
		"a row":          {"INSERT INTO system_metrics (time, metric_name, value) VALUES (now(), 'x', 1)", plain, 0},
		"TimescaleDB":    {fakeTimescale, plain, 0},
		"another role's": {"GRANT ALL ON SCHEMA public TO PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC", plain, 0},
		"partitioned": {`DROP TABLE system_metrics CASCADE; CREATE TABLE system_metrics (time timestamptz NOT NULL, metric_name text NOT NULL, service text, tags jsonb DEFAULT '{}',
			value double precision NOT NULL) PARTITION BY RANGE (time); CREATE INDEX idx_system_metrics_name_service_time ON system_metrics ` + plain, plain, 0},
		"dropped": {"DROP TABLE system_metrics CASCADE", covering, 4},
		"of a table that was renamed": {`ALTER TABLE system_metrics RENAME TO system_metrics_2026; INSERT INTO system_metrics_2026 (time, metric_name, value) VALUES (now(), 'x', 1);
			CREATE TABLE system_metrics (LIKE system_metrics_2026 INCLUDING DEFAULTS)`, plain, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			address := database.URL
			if name == "another role's" {
				_, address = database.Role(t, "NOSUPERUSER")
			}
			database.Exec(t, `DROP INDEX idx_system_metrics_name_service_time; CREATE INDEX idx_system_metrics_name_service_time ON system_metrics `+plain+`;
				DROP VIEW ops_worker_incidents; DROP FUNCTION ops_worker_list_incidents(); DELETE FROM ops_worker_schema_version WHERE version_id >= 6; ALTER TABLE system_metrics RESET (autovacuum_vacuum_insert_scale_factor,
				autovacuum_vacuum_insert_threshold, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);`+test.prepare)
			pool := database.PoolAs(t, address)
			for range 2 {
				migrate(t, pool)
				pgtest.WantRows(t, pool, `SELECT substring(indexdef FROM 'btree (.*)') FROM pg_indexes WHERE indexname = 'idx_system_metrics_name_service_time'`, test.index)
				pgtest.WantRows(t, pool, "SELECT coalesce(cardinality(reloptions), 0) FROM pg_class WHERE oid = 'system_metrics'::regclass", strconv.Itoa(test.options))
			}
		})
	}
}

// What a migration has not set it does not take back.
func TestTheTablesOwnSettingsStay(t *testing.T) {
	t.Parallel()
	for _, test := range map[string]struct {
		prepare string
		want    string
	}{
		"ours":      {"SELECT", "-"},
		"another's": {"ALTER TABLE system_metrics SET (autovacuum_vacuum_threshold = 7)", "autovacuum_vacuum_insert_scale_factor=0,autovacuum_vacuum_insert_threshold=10000,autovacuum_vacuum_scale_factor=0,autovacuum_vacuum_threshold=7"},
	} {
		database := pgtest.New(t)
		database.Exec(t, test.prepare)
		pool := database.Pool(t)
		for range 2 { // 00007 and 00006
			if _, err := schema.Down(t.Context(), pool, schema.DownOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		pgtest.WantRows(t, pool, "SELECT coalesce((SELECT string_agg(o, ',' ORDER BY o) FROM unnest(reloptions) o), '-') FROM pg_class WHERE oid = 'system_metrics'::regclass", test.want)
	}
}

// For a table with rows docs/performance.md has the statements.
func TestTheIndexOfTheLatestSamplesByHand(t *testing.T) {
	t.Parallel()
	const found = `SELECT indexdef FROM pg_indexes WHERE tablename = 'system_metrics' ORDER BY 1; SELECT reloptions FROM pg_class WHERE oid = 'system_metrics'::regclass`
	database := pgtest.New(t)
	pool := database.Pool(t)
	var want []string
	for sql := range strings.SplitSeq(found, ";") {
		want = append(want, pgtest.Rows(t, pool, sql)...)
	}
	database.Exec(t, `DROP INDEX idx_system_metrics_name_service_time; CREATE INDEX idx_system_metrics_name_service_time ON system_metrics (metric_name, service, time DESC);
		ALTER TABLE system_metrics RESET (autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_insert_threshold, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
		INSERT INTO system_metrics (time, metric_name, value) VALUES (now(), 'x', 1)`)
	page, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```sql\n")
	statements, _, _ := strings.Cut(rest, "```")
	for sql := range strings.SplitSeq(strings.TrimSpace(statements), ";") {
		if sql != "" {
			database.Exec(t, sql)
		}
	}
	var got []string
	for sql := range strings.SplitSeq(found, ";") {
		got = append(got, pgtest.Rows(t, pool, sql)...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What holds a lock on a table is not waited for, and is named: everybody else would
// wait behind the migration.
func TestWhoIsInTheWayOfAMigrationIsNamed(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	dump, err := pgx.Connect(t.Context(), database.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Close(context.WithoutCancel(t.Context()))
	does := func(sql string) {
		t.Helper()
		if _, err := dump.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	wantNamed := func(doing string, began time.Time, err error) {
		t.Helper()
		inTheWay := fmt.Sprintf("in the way: pid %d (pg_dump, role %s, idle in transaction BEGIN, in a transaction for ", dump.PgConn().PID(), dump.Config().User)
		if err == nil || !strings.Contains(err.Error(), inTheWay) {
			t.Errorf("%s: %v; want %s", doing, err, inTheWay)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s waited for %s", doing, took)
		}
	}

	does("SET application_name = pg_dump; DROP INDEX idx_system_metrics_name_time; DELETE FROM ops_worker_schema_version WHERE version_id > 0")
	does("BEGIN; LOCK TABLE system_metrics IN ROW EXCLUSIVE MODE")
	began := time.Now()
	_, err = schema.MigrateUp(t.Context(), database.Pool(t), false)
	wantNamed("up", began, err)
	does("COMMIT")
	if _, err := schema.MigrateUp(t.Context(), database.Pool(t), false); err != nil {
		t.Fatal(err)
	}

	does("BEGIN; LOCK TABLE system_metrics, ops_worker_streak IN ACCESS SHARE MODE") // as pg_dump does
	began = time.Now()
	changes, err := schema.Down(t.Context(), database.Pool(t), schema.DownOptions{All: true})
	wantNamed("down", began, err)
	if len(changes) != 4 { // those that drop none of these tables
		t.Errorf("down did %v", changes)
	}
	does("COMMIT")
	if _, err := schema.Down(t.Context(), database.Pool(t), schema.DownOptions{All: true}); err != nil {
		t.Error(err)
	}
}

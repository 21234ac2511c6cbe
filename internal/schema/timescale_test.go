package schema_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
)

// fakeTimescale stands in for TimescaleDB 2 in what our functions ask of it,
// with the signatures of its documentation: the extension itself is not to be
// had everywhere. It notes the calls.
const fakeTimescale = `
	SET allow_system_table_mods = on;
	INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
	VALUES (999999, 'timescaledb', 10, 'public'::regnamespace, false, '2.28.0');
	CREATE SCHEMA timescaledb_information;
	CREATE TABLE timescaledb_information.calls (call text);
	CREATE TABLE timescaledb_information.hypertables (hypertable_schema name, hypertable_name name);
	CREATE TABLE timescaledb_information.jobs (proc_name name, hypertable_schema name, hypertable_name name);
	INSERT INTO timescaledb_information.jobs VALUES ('policy_telemetry', NULL, NULL);
	CREATE FUNCTION create_hypertable(relation regclass, time_column_name name, partitioning_column name DEFAULT NULL,
		number_partitions integer DEFAULT NULL, chunk_time_interval anyelement DEFAULT NULL::bigint, if_not_exists boolean DEFAULT false,
		migrate_data boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		has_rows boolean;
	BEGIN
		EXECUTE format('SELECT EXISTS (SELECT FROM %s)', relation) INTO has_rows;
		IF has_rows AND NOT migrate_data THEN
			RAISE EXCEPTION 'table "%" is not empty', relation;
		END IF;
		INSERT INTO timescaledb_information.calls VALUES (format('create_hypertable %s %s %s', relation, time_column_name, chunk_time_interval));
		INSERT INTO timescaledb_information.hypertables VALUES ('public', relation::text);
	END $$;
	CREATE FUNCTION set_chunk_time_interval(relation regclass, chunk_time_interval anyelement) RETURNS void LANGUAGE sql AS $$
		INSERT INTO timescaledb_information.calls VALUES (format('set_chunk_time_interval %s %s', relation, chunk_time_interval)) $$;
	CREATE FUNCTION drop_chunks(relation regclass, older_than anyelement) RETURNS SETOF text LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO timescaledb_information.calls VALUES (format('drop_chunks %s', relation));
		RETURN QUERY VALUES ('_hyper_1_1_chunk'), ('_hyper_1_2_chunk');
	END $$;
	CREATE FUNCTION add_retention_policy(regclass) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no policies'; END $$`

func timescaleCalls(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT call FROM timescaledb_information.calls ORDER BY call")
	if err != nil {
		t.Fatal(err)
	}
	calls, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

func TestOnTimescaleHypertablesAndNothingMore(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, fakeTimescale)
	pool := database.Pool(t)
	migrate(t, pool)
	want := []string{"create_hypertable system_metrics time 01:00:00", "create_hypertable telemetry time 1 day"}
	if diff := cmp.Diff(want, timescaleCalls(t, pool)); diff != "" {
		t.Error(diff)
	}
	if changes := migrate(t, pool); len(changes) != 0 {
		t.Errorf("the second time did %v", changes)
	}
	wantRoutes(t, pool)
}

func TestTimescaleOutsideOfTheSearchPathIsFound(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	elsewhere := strings.NewReplacer("CREATE FUNCTION ", "CREATE FUNCTION tsdb.", "'public'::regnamespace", "'tsdb'::regnamespace")
	database.Exec(t, "CREATE SCHEMA tsdb;"+elsewhere.Replace(fakeTimescale))
	pool := database.Pool(t)
	migrate(t, pool)
	want := []string{"create_hypertable system_metrics time 01:00:00", "create_hypertable telemetry time 1 day"}
	if diff := cmp.Diff(want, timescaleCalls(t, pool)); diff != "" {
		t.Error(diff)
	}
}

func TestOnTimescaleWhatThePlatformHasMadeIsLeftAlone(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, fakeTimescale)
	database.Exec(t, platformNewSQL)
	database.Exec(t, `
		CREATE TABLE system_metrics (time timestamptz NOT NULL, metric_name text NOT NULL, service text, tags jsonb DEFAULT '{}', value double precision NOT NULL);
		INSERT INTO timescaledb_information.hypertables VALUES ('public', 'system_metrics')`)
	pool := database.Pool(t)
	migrate(t, pool)
	// telemetry is the platform's and plain: that is its business.
	if calls := timescaleCalls(t, pool); len(calls) != 0 {
		t.Errorf("calls: %v", calls)
	}
}

// A start makes a hypertable of an empty table, and leaves one with rows as it is.
func TestOnTimescaleAnEmptyTableIsConverted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fill string
		want []string
	}{
		"empty": {"SELECT 1", []string{"create_hypertable system_metrics time 01:00:00"}},
		"a row": {"INSERT INTO system_metrics (time, metric_name, value) VALUES (now(), 'x', 1)", []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			database.Exec(t, test.fill)
			database.Exec(t, fakeTimescale)
			pool := database.Pool(t)
			migrate(t, pool)
			if diff := cmp.Diff(test.want, timescaleCalls(t, pool)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A start does not wait long for a table that somebody holds.
func TestOnTimescaleAConversionGivesUpOnALock(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, fakeTimescale)
	database.Exec(t, `CREATE FUNCTION lock_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE system_metrics; RETURN NEW; END $$;
		CREATE TRIGGER lock_it BEFORE INSERT ON timescaledb_information.calls FOR EACH ROW EXECUTE FUNCTION lock_it()`)
	pool := database.Pool(t)
	holding, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holding.Rollback(context.Background()) }() // it only read
	if _, err := holding.Exec(t.Context(), "SELECT FROM system_metrics"); err != nil {
		t.Fatal(err)
	}
	changes := migrate(t, pool)
	if !slices.ContainsFunc(changes, func(c schema.Change) bool { return c.Failed() && strings.Contains(c.Detail, "lock timeout") }) {
		t.Errorf("changes: %v", changes)
	}
}

func TestOnTimescaleAConversionThatFailsIsToldAndHarmless(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, fakeTimescale)
	database.Exec(t, "DROP FUNCTION create_hypertable(regclass, name, name, integer, anyelement, boolean, boolean)")
	changes := migrate(t, database.Pool(t))
	if !slices.ContainsFunc(changes, func(c schema.Change) bool {
		return c.Failed() && c.Object == "system_metrics" && strings.Contains(c.Detail, "hypertable")
	}) {
		t.Errorf("changes: %v", changes)
	}
}

// An old sample goes by a delete from a plain table, with its chunk from a hypertable,
// and stays where TimescaleDB has a policy.
func TestRetentionIsLeftToWhoeverDoesIt(t *testing.T) {
	t.Parallel()
	const hypertable = "INSERT INTO timescaledb_information.hypertables VALUES ('public', 'system_metrics')"
	const policy = "INSERT INTO timescaledb_information.jobs VALUES ('policy_retention', 'public', 'system_metrics')"
	const another = "INSERT INTO timescaledb_information.jobs VALUES ('policy_retention', 'public', 'telemetry'), ('policy_compression', 'public', 'system_metrics')"
	for want, prepare := range map[string][]string{
		"true []":             nil,
		"false [drop_chunks]": {fakeTimescale, hypertable, another},
		"false []":            {fakeTimescale, hypertable, policy},
	} {
		database := pgtest.New(t)
		pool := database.Pool(t)
		for _, sql := range append(prepare, "INSERT INTO system_metrics (time, metric_name, value) VALUES (now() - interval '1 year', 'old', 1)") {
			database.Exec(t, sql)
		}
		expirer, err := schema.FindExpirer(t.Context(), db.New(pool))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := expirer.Expire(t.Context(), db.New(pool), time.Now().Add(-24*time.Hour), 10); err != nil {
			t.Error(err)
		}
		var calls []string
		if prepare != nil {
			for _, call := range timescaleCalls(t, pool) {
				calls = append(calls, strings.Fields(call)[0])
			}
		}
		deleted := pgtest.Count(t, pool, "SELECT count(*) FROM system_metrics") == 0
		if got := fmt.Sprint(deleted, " ", calls); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Where TimescaleDB could be had and is not ours to make, nothing is made: the
// platform's migrator could make no hypertable of a system_metrics with rows.
func TestWithoutTheExtensionNothingIsMadeBeforeTheMigrator(t *testing.T) {
	t.Parallel()
	var early *schema.NoTimescaleError
	plain := pgtest.NewEmpty(t)
	plain.OfferTimescale(t)
	plain.WithdrawTimescale(t) // it is not preloaded
	migrate(t, plain.Pool(t))
	database := pgtest.NewEmpty(t)
	database.OfferTimescale(t)
	role, address := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "GRANT ALL ON SCHEMA public TO "+role)
	pool := database.PoolAs(t, address)
	if changes, err := schema.MigrateUp(t.Context(), pool, false); !errors.As(err, &early) || schema.IsRefused(err) || len(changes) != 0 {
		t.Fatalf("up: %v, %v", changes, err)
	}
	if got := tables(t, pool); len(got) != 0 {
		t.Errorf("tables: %v", got)
	}
	if _, err := schema.MigrateUp(t.Context(), pool, true); err != nil {
		t.Errorf("any database: %v", err)
	}
	if _, err := schema.MigrateUp(t.Context(), pool, false); err != nil {
		t.Errorf("once tables stand: %v", err)
	}
	for name, prepare := range map[string]string{
		"a table of the platform's": "CREATE TABLE notification_channels (channel_type text, is_enabled boolean)",
		"a file of the migrator's":  "CREATE TABLE schema_migrations (version text PRIMARY KEY, filename text NOT NULL); INSERT INTO schema_migrations VALUES ('000', '000.sql')",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.NewEmpty(t)
			database.OfferTimescale(t)
			database.Exec(t, prepare)
			migrate(t, database.Pool(t))
		})
	}
}

// As above, on a server that has TimescaleDB: run it with PGTEST_DATABASE_URL on one that has preloaded it.
func TestOnAServerWithTimescaleTheExtensionComesFirst(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	pool := database.Pool(t)
	if pgtest.Count(t, pool, "SELECT count(*)::int FROM pg_available_extensions WHERE name = 'timescaledb'") == 0 {
		t.Skip("this server has no TimescaleDB")
	}
	preloaded := pgtest.Count(t, pool, "SELECT (current_setting('shared_preload_libraries') LIKE '%timescaledb%')::int") == 1
	role, address := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "GRANT ALL ON SCHEMA public TO "+role)
	var early *schema.NoTimescaleError
	if _, err := schema.MigrateUp(t.Context(), database.PoolAs(t, address), false); errors.As(err, &early) != preloaded {
		t.Fatalf("as a role that may not: %v", err)
	}
	migrate(t, database.PoolAs(t, pgtest.NewPgBouncer(t, database.URL, "transaction", "").URL))
	got := pgtest.Count(t, pool, "SELECT count(*)::int FROM pg_extension WHERE extname = 'timescaledb'")
	if (got == 1) != preloaded {
		t.Errorf("the extension is made: %d", got)
	}
	if preloaded {
		pgtest.WantRows(t, pool, "SELECT hypertable_name FROM timescaledb_information.hypertables ORDER BY 1", "system_metrics", "telemetry")
	}
	pgtest.WantRows(t, pool, "SELECT to_regclass('public.system_metrics') IS NOT NULL", "true")
	if changes := migrate(t, pool); len(changes) != 0 {
		t.Errorf("the second time did %v", changes)
	}
}

package schema_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/internal/contracttest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
)

// tables lists every table outside of the server's own schemas.
func tables(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return pgtest.Rows(t, pool, `SELECT schemaname || '.' || tablename FROM pg_tables
		WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1`)
}

func runMigrator(t *testing.T, pool *pgxpool.Pool) (applied int) {
	t.Helper()
	applied, err := contracttest.RunMigrator(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

// Nothing orders the worker and the platform's migrator: whoever comes first, all
// of the migrator's files are applied, and the schema is the same in the end.
func TestThePlatformsMigratorRunsAllItsFiles(t *testing.T) {
	t.Parallel()
	files, err := contracttest.MigratorFiles()
	if err != nil {
		t.Fatal(err)
	}
	orders := map[string][]func(*testing.T, *pgxpool.Pool){
		"the migrator first":      {migrator, worker},
		"the worker first":        {worker, migrator, worker},
		"the worker and its down": {worker, down, migrator, worker},
		"the worker twice":        {worker, worker, migrator, worker},
		"an empty table first": {func(t *testing.T, pool *pgxpool.Pool) {
			if _, err := pool.Exec(t.Context(), "CREATE TABLE schema_migrations (version text PRIMARY KEY, filename text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"); err != nil {
				t.Fatal(err)
			}
		}, worker, migrator, worker},
	}
	var mu sync.Mutex
	schemas := map[string][]string{}
	t.Run("", func(t *testing.T) {
		for name, steps := range orders {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pool := pgtest.NewEmpty(t).Pool(t)
				for _, step := range steps {
					step(t, pool)
				}
				pgtest.WantRows(t, pool, "SELECT count(*) FROM schema_migrations WHERE version <> 'ops_worker'", fmt.Sprint(len(files)))
				wantRoutes(t, pool)
				mu.Lock()
				defer mu.Unlock()
				schemas[name] = describe(t, pool)
			})
		}
	})
	for name, got := range schemas {
		if diff := cmp.Diff(schemas["the migrator first"], got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func worker(t *testing.T, pool *pgxpool.Pool) { migrate(t, pool) }

func migrator(t *testing.T, pool *pgxpool.Pool) {
	files, err := contracttest.MigratorFiles()
	if applied := runMigrator(t, pool); err != nil || applied != len(files) {
		t.Fatalf("%d of %d files are applied, %v", applied, len(files), err)
	}
}

func down(t *testing.T, pool *pgxpool.Pool) {
	if _, err := schema.Down(t.Context(), pool, schema.DownOptions{All: true}); err != nil {
		t.Fatal(err)
	}
}

// A platform that was ruined all the same is mended by what docs/operation.md says.
func TestARuinedPlatformIsMended(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "DROP TABLE schema_migrations")
	pool := database.Pool(t)
	if applied := runMigrator(t, pool); applied != 0 {
		t.Fatalf("the stand-in has applied %d files", applied)
	}
	const mend = "DELETE FROM schema_migrations; INSERT INTO schema_migrations (version, filename) VALUES ('ops_worker', 'no file')"
	if !strings.Contains(readFile(t, "../../docs/operation.md"), mend) {
		t.Error("docs/operation.md does not say it")
	}
	database.Exec(t, mend)
	migrator(t, pool)
	migrate(t, pool)
	wantRoutes(t, pool)
}

// A mark that cannot be left keeps the worker from making anything.
func TestWithoutTheMarkNothingIsMade(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	name, address := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "GRANT CREATE, USAGE ON SCHEMA public TO "+name)
	database.Exec(t, "CREATE TABLE schema_migrations (version text PRIMARY KEY, filename text NOT NULL)")
	database.Exec(t, "GRANT SELECT ON schema_migrations TO "+name)
	if _, err := schema.MigrateUp(t.Context(), database.PoolAs(t, address), false); err == nil || !strings.Contains(err.Error(), "schema_migrations") {
		t.Errorf("up: %v", err)
	}
	if got := tables(t, database.Pool(t)); len(got) != 1 {
		t.Errorf("tables: %v", got)
	}
}

func TestReadingTheStatusLeavesAnEmptyDatabaseEmpty(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewEmpty(t).Pool(t)
	states, err := schema.Status(t.Context(), pool)
	if err != nil || len(states) < 2 {
		t.Errorf("%v, %v", states, err)
	}
	down(t, pool)
	if got := tables(t, pool); len(got) != 0 {
		t.Errorf("tables: %v", got)
	}
}

// Another schema before public, for everybody who connects to the database, gets
// nothing.
func TestASchemaEarlierInTheSearchPathGetsNoTables(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"nothing missing":           "SELECT",
		"a table of ours missing":   "DROP TABLE service_health",
		"migrations pending":        "DROP TABLE ops_worker_streak; DELETE FROM ops_worker_schema_version WHERE version_id >= 3",
		"all but the platform's":    "DROP TABLE service_health, ops_worker_lease, ops_worker_streak, ops_worker_schema_version, ops_worker_schema_lock; DROP TABLE system_metrics CASCADE",
		"a table of the platform's": "DROP TABLE telemetry, operator_audit_log",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			want := tables(t, database.Pool(t))
			database.Exec(t, change)
			database.Exec(t, fmt.Sprintf("CREATE SCHEMA iot; CREATE TABLE iot.system_metrics (value text); ALTER DATABASE %q SET search_path = iot", database.Name))
			want = append([]string{"iot.system_metrics"}, want...) // somebody else's
			pool := database.Pool(t)
			migrate(t, pool)
			if diff := cmp.Diff(want, tables(t, pool)); diff != "" {
				t.Error(diff)
			}
			if changes := migrate(t, pool); len(changes) != 0 {
				t.Errorf("the second time did %v", changes)
			}
			down(t, pool)
			if got := tables(t, pool); slices.Contains(got, "public.system_metrics") || !slices.Contains(got, "iot.system_metrics") {
				t.Errorf("after down: %v", got)
			}
		})
	}
}

// Tables of the worker in another schema, in the search path or not, are refused; what
// the error says moves them.
func TestTablesInAnotherSchemaAreRefusedAndMoved(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"public", "iot, public"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			want := tables(t, database.Pool(t))
			database.Exec(t, "INSERT INTO system_metrics (time, metric_name, value) VALUES (now(), 'x', 1)")
			database.Exec(t, fmt.Sprintf("ALTER SCHEMA public RENAME TO iot; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO PUBLIC; ALTER DATABASE %q SET search_path = %s", database.Name, path))
			pool := database.Pool(t)
			_, err := schema.MigrateUp(t.Context(), pool, false)
			var elsewhere *schema.ElsewhereError
			if !errors.As(err, &elsewhere) || !schema.IsRefused(err) {
				t.Fatalf("up: %v", err)
			}
			for _, part := range []string{`ALTER TABLE "iot"."ops_worker_lease" SET SCHEMA public;`, `ALTER VIEW "iot"."system_metrics_latest" SET SCHEMA public;`} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s is not in: %s", part, err)
				}
			}
			_, moves, _ := strings.Cut(elsewhere.Error(), "nobody reads: ")
			database.Exec(t, moves)
			migrate(t, pool)
			if diff := cmp.Diff(append([]string{"iot.schema_migrations"}, want...), tables(t, pool)); diff != "" {
				t.Error(diff)
			}
			wantRoutes(t, pool)
			pgtest.WantRows(t, pool, "SELECT count(*) FROM public.system_metrics", "1")
		})
	}
}

func TestTwoSetsOfTables(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	// A backup of some tables is no second set.
	database.Exec(t, "CREATE SCHEMA old; CREATE TABLE old.ops_worker_lease (LIKE ops_worker_lease); CREATE TABLE old.service_health (LIKE service_health)")
	migrate(t, pool)
	// Half a set is, of which public has the other half.
	database.Exec(t, "DROP TABLE ops_worker_lease")
	if _, err := schema.MigrateUp(t.Context(), pool, false); !schema.IsRefused(err) || !strings.Contains(err.Error(), `ALTER TABLE "old"."ops_worker_lease" SET SCHEMA public;`) {
		t.Errorf("up: %v", err)
	}
}

// goose begins its transactions by the defaults of the role: the server says that these
// only read, and docs/operation.md what ends that.
func TestAReadOnlyDefaultIsTold(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	role, address := database.Role(t, "SUPERUSER")
	database.Exec(t, fmt.Sprintf("ALTER DATABASE %q SET default_transaction_read_only = on", database.Name))
	pool := database.PoolAs(t, address)
	migrate(t, pool) // there is nothing to do
	write := func(sql string) { database.Exec(t, "BEGIN READ WRITE; "+sql+"; COMMIT") }
	defer write(fmt.Sprintf("ALTER DATABASE %q RESET default_transaction_read_only", database.Name))
	write("DROP TABLE service_health")
	if _, err := schema.MigrateUp(t.Context(), pool, false); err == nil || !strings.Contains(err.Error(), "read-only transaction") {
		t.Fatalf("up: %v", err)
	}
	write(fmt.Sprintf("ALTER ROLE %q SET default_transaction_read_only = off", role))
	mended := database.PoolAs(t, address)
	migrate(t, mended)
	down(t, mended)
}

// Policies on the worker's own tables that would hide rows are told with their mend,
// rather than taken for a database that was never migrated.
func TestRowSecurityOnTheWorkersOwnTablesIsTold(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	role, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	database.Exec(t, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role)
	pool := database.PoolAs(t, address)
	for _, table := range []string{"ops_worker_schema_version", "ops_worker_lease", "system_metrics"} {
		database.Exec(t, "ALTER TABLE "+table+" ENABLE ROW LEVEL SECURITY")
		_, err := schema.MigrateUp(t.Context(), pool, false)
		var hidden *schema.RowSecurityError
		if !errors.As(err, &hidden) || hidden.Advice() != "ALTER TABLE public."+table+" DISABLE ROW LEVEL SECURITY;" {
			t.Fatalf("%s: %v", table, err)
		}
		if _, err := schema.Status(t.Context(), pool); errors.As(err, &hidden) != (table == "ops_worker_schema_version") {
			t.Errorf("status: %v", err)
		}
		database.Exec(t, hidden.Advice())
	}
	migrate(t, pool)
}

func TestAForeignDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, "CREATE TABLE books (id bigint)")
	pool := database.Pool(t)
	_, err := schema.MigrateUp(t.Context(), pool, false)
	var foreign *schema.ForeignDatabaseError
	if !errors.As(err, &foreign) || !strings.Contains(err.Error(), database.Name) {
		t.Errorf("up: %v", err)
	}
	if diff := cmp.Diff([]string{"public.books"}, tables(t, pool)); diff != "" {
		t.Error(diff)
	}
	if _, err := schema.MigrateUp(t.Context(), pool, true); err != nil {
		t.Error(err)
	}
	if _, err := schema.MigrateUp(t.Context(), pool, false); err != nil {
		t.Errorf("the second time: %v", err)
	}
	// One with any table of the platform's is none.
	platform := pgtest.NewEmpty(t)
	platform.Exec(t, "CREATE TABLE books (id bigint); CREATE TABLE notification_channels (channel_type text, is_enabled boolean)")
	migrate(t, platform.Pool(t))
}

package db_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func wantRows(t *testing.T, pool *pgxpool.Pool, name string, want ...string) {
	t.Helper()
	for _, r := range db.Routes {
		if r.Name != name {
			continue
		}
		got, err := readRoute(t.Context(), pool, r)
		if err != nil {
			t.Errorf("route %s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("route %s: %s", name, diff)
		}
		return
	}
	t.Fatalf("no route %s", name)
}

func TestViewsStandInForDroppedTables(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, platformNewSQL)
	pool := database.Pool(t)
	migrate(t, pool)
	wantRoutes(t, pool)
	wantRows(t, pool, "/aggregates integrations", "3 2 1 1")
	database.Exec(t, "UPDATE notification_jobs SET created_at = '2020-01-01'")
	wantRows(t, pool, "/aggregates deliveries", "2 1 1 0 2020-01-01 00:00:00 +0000 UTC")
	wantRows(t, pool, "/errors stuck", "2")
	// What no route reads, the platform may change under the views.
	database.Exec(t, `ALTER TABLE notification_channels DROP COLUMN config, ALTER COLUMN name TYPE varchar(80);
		ALTER TABLE notification_jobs DROP COLUMN payload_json, ALTER COLUMN alert_id TYPE numeric`)
	wantRoutes(t, pool)
}

func TestViewsShowEachReaderWhatTheTableWould(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, platformNewSQL)
	migrate(t, database.Pool(t))
	name, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS IN ROLE pulse_app")
	database.Exec(t, "GRANT SELECT ON delivery_jobs TO "+name)
	pool := database.PoolAs(t, address)
	var count int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM delivery_jobs").Scan(&count); err != nil || count != 0 {
		t.Errorf("a tenant's role sees %d jobs of others, %v", count, err)
	}
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), "SET app.tenant_id = 't1'"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM delivery_jobs").Scan(&count); err != nil || count != 3 {
		t.Errorf("the tenant sees %d of its own jobs, %v; want 3", count, err)
	}
}

func TestViewsOnAServerWithoutSecurityInvokerAreTheOperatorsAlone(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	pool := database.Pool(t)
	migrate(t, pool)
	database.Exec(t, "DROP TABLE integrations, delivery_jobs")
	database.Exec(t, `
		CREATE TABLE notification_channels (channel_id serial PRIMARY KEY, tenant_id text, name text, channel_type text, config jsonb,
			is_enabled boolean, created_at timestamptz, updated_at timestamptz);
		CREATE TABLE notification_jobs (job_id bigserial PRIMARY KEY, tenant_id text, alert_id bigint, channel_id int, rule_id int, deliver_on_event text,
			status text, attempts int, next_run_at timestamptz, last_error text, payload_json jsonb, created_at timestamptz, updated_at timestamptz);
		GRANT SELECT ON notification_channels, notification_jobs TO pulse_operator;
		ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC`)
	if changes, err := db.EnsurePlatformOnServer(t.Context(), pool, 140000); err != nil || slices.ContainsFunc(changes, db.Change.Failed) {
		t.Fatalf("%v, %v", changes, err)
	}
	var owner string
	if err := pool.QueryRow(t.Context(), "SELECT viewowner FROM pg_views WHERE viewname = 'delivery_jobs'").Scan(&owner); err != nil || owner != "pulse_operator" {
		t.Errorf("owner %q, %v", owner, err)
	}
	name, _ := database.Role(t, "NOSUPERUSER")
	var may bool
	if err := pool.QueryRow(t.Context(), "SELECT has_table_privilege($1, 'delivery_jobs', 'SELECT')", name).Scan(&may); err != nil || may {
		t.Errorf("any role may read the view: %t, %v", may, err)
	}
	wantRoutes(t, pool)
}

func TestOldTablesAreUsedAsTheyAre(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, `INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, payload_json, created_at)
		VALUES ('t', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', '{}', '2020-01-01')`)
	database.Exec(t, "COMMENT ON TABLE delivery_jobs IS 'the platform''s'")
	pool := database.Pool(t)
	migrate(t, pool)
	wantRows(t, pool, "/aggregates deliveries", "1 0 0 0 2020-01-01 00:00:00 +0000 UTC")
}

func TestBothOldAndNewTablesLeaveTheOldInUse(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "COMMENT ON TABLE delivery_jobs IS NULL; CREATE TABLE notification_jobs (job_id bigint)")
	pool := database.Pool(t)
	if changes := migrate(t, pool); slices.ContainsFunc(changes, func(c db.Change) bool { return c.Object == "delivery_jobs" }) {
		t.Errorf("changes: %v", changes)
	}
	wantRoutes(t, pool)
}

func TestOurOwnTableInTheWayOfANewOneIsNamed(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "CREATE TABLE notification_jobs (job_id bigint)")
	changes := migrate(t, database.Pool(t))
	if !slices.ContainsFunc(changes, func(c db.Change) bool {
		return c.Failed() && c.Object == "delivery_jobs" && strings.Contains(c.Detail, "hides notification_jobs")
	}) {
		t.Errorf("changes: %v", changes)
	}
}

func TestTablesAreEnsuredAtEveryStart(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	before := schema(t, pool)
	database.Exec(t, "DROP TABLE operator_audit_log, alert_rules, service_health, ops_worker_lease; DROP TABLE system_metrics CASCADE")
	migrate(t, pool)
	wantRoutes(t, pool)
	if diff := cmp.Diff(before, schema(t, pool)); diff != "" {
		t.Errorf("what is made again differs: %s", diff)
	}
}

// The platform's migrator runs after ours on the same database: its first
// migrations find everything, and its later ones build on it.
func TestThePlatformsMigratorRunsAfterOurs(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, `
		CREATE TABLE IF NOT EXISTS tenants (tenant_id text PRIMARY KEY);
		CREATE TABLE IF NOT EXISTS fleet_alert (id bigserial PRIMARY KEY);
		CREATE UNIQUE INDEX IF NOT EXISTS idx_fleet_alert_open_uq ON fleet_alert (tenant_id, fingerprint) WHERE status = 'OPEN';
		CREATE TABLE IF NOT EXISTS system_metrics (time timestamptz NOT NULL);
		CREATE INDEX IF NOT EXISTS idx_system_metrics_name_time ON system_metrics (metric_name, time DESC);
		CREATE OR REPLACE VIEW system_metrics_latest AS
			SELECT DISTINCT ON (metric_name, service) time, metric_name, service, value, tags FROM system_metrics ORDER BY metric_name, service, time DESC;
		CREATE OR REPLACE VIEW system_metrics_recent AS
			SELECT metric_name, service, avg(value) AS avg_value, max(value) AS max_value, min(value) AS min_value, count(*) AS sample_count
			FROM system_metrics WHERE time > now() - interval '5 minutes' GROUP BY metric_name, service;
		ALTER TABLE device_registry ADD COLUMN device_type text;
		ALTER TABLE fleet_alert ADD CONSTRAINT fleet_alert_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants;
		ALTER TABLE device_state ENABLE ROW LEVEL SECURITY;
		ALTER TABLE device_state FORCE ROW LEVEL SECURITY;
		CREATE POLICY tenant ON device_state USING (tenant_id = current_setting('app.tenant_id', true));
		DROP TABLE delivery_jobs;
		DROP TABLE integrations;
		CREATE TABLE notification_channels (channel_id serial PRIMARY KEY, tenant_id text, name text, channel_type text, config jsonb,
			is_enabled boolean, created_at timestamptz, updated_at timestamptz);
		CREATE TABLE notification_jobs (job_id bigserial PRIMARY KEY, tenant_id text, alert_id bigint, channel_id int, rule_id int, deliver_on_event text,
			status text, attempts int, next_run_at timestamptz, last_error text, payload_json jsonb, created_at timestamptz, updated_at timestamptz)`)
	pool := database.Pool(t)
	migrate(t, pool)
	wantRoutes(t, pool)
}

func TestALoginRoleThatMayNotCreateRolesIsToldSo(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	name, address := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "GRANT CREATE, USAGE ON SCHEMA public TO "+name)
	pool := database.PoolAs(t, address)
	changes := migrate(t, pool)
	// On a server where another database's worker made the role there is
	// nothing to fail, and the tables are granted to it.
	if !slices.ContainsFunc(changes, func(c db.Change) bool {
		return c.Object == "pulse_operator" && c.Failed() || c.Object == "tenants" && c.Action == "granted"
	}) {
		t.Errorf("changes: %v", changes)
	}
}

package schema_test

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
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
	for _, r := range schema.Routes() {
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
	if changes := migrate(t, pool); slices.ContainsFunc(changes, func(c schema.Change) bool { return c.Object == "delivery_jobs" }) {
		t.Errorf("changes: %v", changes)
	}
	wantRoutes(t, pool)
}

func TestOurOwnTableInTheWayOfANewOneIsNamed(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "CREATE TABLE notification_jobs (job_id bigint)")
	changes := migrate(t, database.Pool(t))
	if !slices.ContainsFunc(changes, func(c schema.Change) bool {
		return c.Failed() && c.Object == "delivery_jobs" && strings.Contains(c.Detail, "hides notification_jobs")
	}) {
		t.Errorf("changes: %v", changes)
	}
}

func TestTablesAreEnsuredAtEveryStart(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	before := describe(t, pool)
	database.Exec(t, "DROP TABLE operator_audit_log, alert_rules, service_health, ops_worker_lease; DROP TABLE system_metrics CASCADE")
	migrate(t, pool)
	wantRoutes(t, pool)
	if diff := cmp.Diff(before, describe(t, pool)); diff != "" {
		t.Errorf("what is made again differs: %s", diff)
	}
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
	if !slices.ContainsFunc(changes, func(c schema.Change) bool {
		return c.Object == "pulse_operator" && c.Failed() || c.Object == "tenants" && c.Action == "granted"
	}) {
		t.Errorf("changes: %v", changes)
	}
}

// A table that the platform's migrator has gone on from keeps our comment, and is
// the platform's all the same.
func TestATableThatThePlatformHasMadeItsOwnIsNotOurs(t *testing.T) {
	t.Parallel()
	for name, adopt := range map[string]string{
		"a column":            "ALTER TABLE delivery_jobs ADD COLUMN priority integer",
		"a dropped column":    "ALTER TABLE delivery_jobs DROP COLUMN payload_json",
		"a trigger":           "CREATE TRIGGER t BEFORE UPDATE ON delivery_jobs FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
		"a foreign key":       "ALTER TABLE delivery_jobs ADD FOREIGN KEY (tenant_id) REFERENCES tenants",
		"a foreign key to it": "CREATE TABLE delivery_attempts (job_id bigint REFERENCES delivery_jobs)",
		"a row": `INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, payload_json)
			VALUES ('t', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', '{}')`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			database.Exec(t, adopt)
			database.Exec(t, "CREATE TABLE notification_jobs (job_id bigint)")
			for _, c := range migrate(t, database.Pool(t)) {
				if c.Object == "delivery_jobs" {
					t.Errorf("%+v", c)
				}
			}
		})
	}
}

// The role belongs to the whole server, so another database's worker may have
// made it: where the login role may, it is granted the role.
func TestAnOperatorRoleThatStandsIsGranted(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	createrole, address := database.Role(t, "CREATEROLE NOSUPERUSER")
	database.Exec(t, "GRANT CREATE, USAGE ON SCHEMA public TO "+createrole+"; GRANT ALL ON ALL TABLES IN SCHEMA public TO "+createrole)
	database.Exec(t, "GRANT pulse_operator TO "+createrole+" WITH ADMIN OPTION")
	version := pgtest.Count(t, pool, "SELECT current_setting('server_version_num')::integer")
	if version >= 160000 {
		database.Exec(t, "GRANT pulse_operator TO "+createrole+" WITH SET FALSE")
	} else {
		database.Exec(t, "REVOKE pulse_operator FROM "+createrole)
	}
	migrate(t, database.PoolAs(t, address))
	mode := "MEMBER"
	if version >= 160000 {
		mode = "SET"
	}
	pgtest.WantRows(t, pool, "SELECT pg_has_role('"+createrole+"', 'pulse_operator', '"+mode+"')", "true")
}

// Taking on a role changes current_user, by which the login role is looked for: a
// role that the scan comes to later must not be found as well.
func TestTheRoleIsTakenOnOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	name, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS IN ROLE pulse_operator")
	database.Exec(t, "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+name+"; ALTER TABLE device_state ENABLE ROW LEVEL SECURITY")
	database.Exec(t, "ALTER ROLE pulse_operator NOLOGIN") // as it is, and behind the login role in the catalogue
	pool := database.PoolAs(t, address)
	err := db.InTx(t.Context(), pool, db.ReadOnly, db.Limits{Statement: time.Minute, Lock: time.Minute}, func(q *db.Queries) error {
		role, err := q.EnterPlatformScope(t.Context())
		if role != "pulse_operator" {
			t.Errorf("role %s", role)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

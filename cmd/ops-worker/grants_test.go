package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// granted is the script that `grants` prints.
func granted(t *testing.T, environ []string, role string) string {
	t.Helper()
	r := command(t, environ, "grants", role)
	if r.status != exitOK {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	return r.stdout
}

// held are the statements that take back what a role and the operator's may do in a
// database, one right each.
const held = `
	WITH roles AS (SELECT oid, rolname FROM pg_roles WHERE rolname IN ($1, 'pulse_operator'))
	SELECT format('REVOKE %s ON %s %s FROM %I', a.privilege_type, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass, r.rolname)
	FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN roles r ON r.oid = a.grantee WHERE c.relnamespace = 'public'::regnamespace
	UNION ALL
	SELECT format('REVOKE %s ON SCHEMA public FROM %I', a.privilege_type, r.rolname)
	FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a JOIN roles r ON r.oid = a.grantee WHERE n.nspname = 'public'
	UNION ALL
	SELECT format('REVOKE %s ON DATABASE %I FROM %I', a.privilege_type, d.datname, r.rolname)
	FROM pg_database d CROSS JOIN aclexplode(d.datacl) a JOIN roles r ON r.oid = a.grantee WHERE d.datname = current_database()
	UNION ALL
	SELECT format('REVOKE pulse_operator FROM %I', r.rolname)
	FROM pg_auth_members m JOIN roles r ON r.oid = m.member WHERE m.roleid = 'pulse_operator'::regrole AND r.rolname = $1`

// A role with what `grants` prints does all that the worker does, and with any one
// right less it does not.
func TestGrantsAreEnoughAndNeeded(t *testing.T) {
	t.Parallel()
	newest, err := os.ReadFile("../../internal/schema/testdata/platform_new.sql")
	if err != nil {
		t.Fatal(err)
	}
	for name, platform := range map[string]string{"first form": "SELECT", "newest schema": string(newest)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.NewEmpty(t)
			database.Exec(t, platform)
			if platform == string(newest) {
				database.NewerTables(t)
			}
			owner := environment(t, database)
			command(t, owner, "migrate", "up").want(t, exitOK, "00001", "")
			database.Exec(t, fmt.Sprintf("REVOKE ALL ON DATABASE %q FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC, pulse_operator; REVOKE ALL ON ALL TABLES IN SCHEMA public FROM pulse_operator", database.Name))
			role, login := database.Role(t, "NOSUPERUSER NOBYPASSRLS NOINHERIT")
			environ := append(slices.Clone(owner), "DATABASE_URL="+login, "ALERT_WEBHOOK_URL=http://127.0.0.1:1")
			script := granted(t, owner, role)
			database.Exec(t, script)
			if err := exercise(t, database, environ, login); err != nil {
				t.Fatalf("with all of it: %v", err)
			}
			command(t, environ, "once", "metrics").want(t, exitOK, "devices_online", "")
			if r := command(t, environ, "doctor"); strings.Contains(r.stdout, "ops-worker grants") {
				t.Errorf("doctor misses a right:\n%s", r.stdout)
			}
			revocations := pgtest.Rows(t, database.Pool(t), held, role)
			if len(revocations) < 20 {
				t.Errorf("%d rights: %q", len(revocations), revocations)
			}
			for _, revoke := range revocations {
				database.Exec(t, revoke)
				if err := exercise(t, database, environ, login); err == nil {
					t.Errorf("nothing needs what this takes back: %s", revoke)
				}
				database.Exec(t, script)
			}
			if err := exercise(t, database, environ, login); err != nil {
				t.Errorf("with all of it again: %v", err)
			}
		})
	}
}

// exercise does once what a worker does, with one service that is not well.
func exercise(t *testing.T, database *pgtest.Database, environ []string, login string) error {
	t.Helper()
	// One alert to open, and one to close.
	database.Exec(t, `DELETE FROM fleet_alert WHERE tenant_id = '__system__'; DELETE FROM ops_worker_lease;
		INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'System Alerts') ON CONFLICT DO NOTHING;
		INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
		VALUES ('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:ingest', 'OPEN', 's')`)
	var errs []error
	for _, cycle := range []string{"metrics", "health"} {
		if r := command(t, environ, "once", cycle); r.status != exitOK || strings.Contains(r.stderr, `"level":"ERROR"`) || strings.Contains(r.stderr, schemaWarning) {
			errs = append(errs, fmt.Errorf("once %s: %s", cycle, r.stderr))
		}
	}
	if r := command(t, environ, "status"); r.status != exitOK || strings.Contains(r.stdout, "not read:") {
		errs = append(errs, fmt.Errorf("status: %s\n%s", r.stderr, r.stdout))
	}
	if pgtest.Count(t, database.Pool(t), "SELECT count(to_regclass('public.alert_maintenance_windows'))::int") == 1 {
		for _, args := range [][]string{{"start", "--for", "1h", "--reason", "x"}, {"list"}, {"end"}} {
			if r := command(t, environ, append([]string{"maintenance"}, args...)...); r.status != exitOK {
				errs = append(errs, fmt.Errorf("maintenance %s: %s", args[0], r.stderr))
			}
		}
	}
	pool := database.PoolAs(t, login)
	defer pool.Close()
	errs = append(errs, db.InTx(t.Context(), pool, db.ReadWrite, db.Limits{Statement: 5 * time.Second, Lock: 5 * time.Second}, func(q *db.Queries) error {
		if err := q.MarkTold(t.Context(), db.MarkToldParams{Fingerprints: []string{"x"}, OpenedAts: []time.Time{time.Now()}, Closings: []bool{true}}); err != nil {
			return err
		}
		if _, err := q.DeleteExpiredSamples(t.Context(), db.DeleteExpiredSamplesParams{Cutoff: time.Unix(0, 0), BatchSize: 1}); err != nil {
			return err
		}
		if _, err := q.EnterPlatformScope(t.Context()); err != nil {
			return err
		}
		_, err := q.CloseSystemAlert(t.Context(), db.CloseSystemAlertParams{Fingerprint: "x", Details: "{}"})
		return err
	}))
	return errors.Join(errs...)
}

const schemaWarning = "the schema is not brought up to date, the tables that stand are used"

func TestGrantsForAnyName(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	owner := environment(t, database)
	script := granted(t, owner, "nobody yet")
	for _, want := range []string{`CREATE ROLE "nobody yet" LOGIN`, `GRANT USAGE ON SCHEMA public TO "nobody yet"`, "GRANT USAGE ON SEQUENCE public.fleet_alert_id_seq"} {
		if !strings.Contains(script, want) {
			t.Errorf("there is no %s in\n%s", want, script)
		}
	}
	// A role may be called by a word that SQL keeps for itself, by several statements, or
	// as a placeholder of the template.
	for _, name := range []string{"user", `x"; DROP TABLE tenants; --`, "two\nlines; --", ":platform"} {
		database.Exec(t, "BEGIN; "+granted(t, owner, name)+"; ROLLBACK")
	}
	command(t, environment(t, pgtest.NewEmpty(t)), "grants", "x").want(t, exitFailed, "", "run `ops-worker migrate up` first")
	command(t, owner, "grants").want(t, exitUsage, "", "accepts 1 arg(s)")
}

// In a rolling upgrade the new worker may come before the owner's migration: it
// collects with the tables that stand, as the old one does.
func TestAMigrationThatIsForbiddenKeepsNobodyFromCollecting(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	environ := environment(t, database)
	role, login := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	database.Exec(t, granted(t, environ, role)+"; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	database.Exec(t, "DROP TABLE ops_worker_streak; DELETE FROM ops_worker_schema_version WHERE version_id >= 3")
	command(t, append(slices.Clone(environ), "DATABASE_URL="+login), "once", "metrics").want(t, exitOK, "messages_received", schemaWarning)
	r := command(t, append(slices.Clone(environ), "DATABASE_URL="+login), "once", "health")
	r.want(t, exitFailed, "", "checks are not counted")
	pgtest.WantRows(t, database.Pool(t), "SELECT status FROM fleet_alert WHERE fingerprint = 'system-health:evaluator'", "OPEN")
	database.Exec(t, "DROP TABLE service_health")
	command(t, append(slices.Clone(environ), "DATABASE_URL="+login), "once", "metrics").want(t, exitFailed, "", "permission denied")
}

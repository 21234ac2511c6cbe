package doctor

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/schema"
)

// fault is one thing that is wrong on a platform in which all else is well.
type fault struct {
	plant  func(t *testing.T, s *stage)
	check  string
	result Result
	found  string
	advice string
	also   string // checks that it spoils besides its own; * is any
}

// exec plants SQL.
func exec(sql string) func(*testing.T, *stage) {
	return func(t *testing.T, s *stage) { t.Helper(); s.database.Exec(t, sql) }
}

// execAsWorker plants SQL where the worker logs in as a role of its own, which is ROLE.
func execAsWorker(sql string) func(*testing.T, *stage) {
	return func(t *testing.T, s *stage) {
		t.Helper()
		s.database.Exec(t, strings.ReplaceAll(sql, "ROLE", s.worker(t)))
	}
}

// setting plants a setting.
func setting(name, value string) func(*testing.T, *stage) {
	return func(_ *testing.T, s *stage) { s.env[name] = value }
}

var settingFaults = map[string]fault{
	"a setting is mended": {
		plant: setting("HEALTH_CHECK_INTERVAL", "1"),
		check: "settings", result: Warn, found: "HEALTH_CHECK_INTERVAL is raised",
	},
	"no such database": {
		plant: func(_ *testing.T, s *stage) {
			s.env["DATABASE_URL"] = strings.Replace(s.database.URL, s.database.Name, "nowhere", 1)
		},
		check: "connection", result: Fail, found: "3D000", advice: "PG_DB", also: "services",
	},
	"wrong password": {
		plant: func(t *testing.T, s *stage) {
			role, url := s.database.Role(t, "")
			s.env["DATABASE_URL"] = strings.Replace(url, role+":", role+":x", 1)
		},
		check: "connection", result: Fail, found: "28P01", advice: "PG_PASS", also: "services",
	},
	"pools that the server has no room for": {
		plant: setting("PG_POOL_MAX", "900"),
		check: "connections", result: Warn, found: "there is no room for all of them", advice: "PG_POOL_MAX",
	},
	"a service is down": {
		plant: func(t *testing.T, s *stage) { s.env["INGEST_HEALTH_URL"] = "http://" + refusing(t) },
		check: "services", result: Fail, found: "ingest: down, connection refused", advice: "start ingest, or correct INGEST_HEALTH_URL",
	},
	"a service is degraded": {
		plant: func(t *testing.T, s *stage) {
			s.env["EVALUATOR_HEALTH_URL"] = service(t, http.StatusServiceUnavailable)
		},
		check: "services", result: Warn, found: "evaluator: degraded, HTTP 503", advice: "see the log of evaluator",
	},
	"an extra service does not speak HTTP": {
		plant: func(t *testing.T, s *stage) { s.env["HEALTH_SERVICES"] = "billing=http://" + greeting(t) + "/health" },
		check: "services", result: Fail, found: "billing: unknown", advice: "HEALTH_SERVICES",
	},
	"an aggregate that takes long, and a small budget": {
		plant: func(t *testing.T, s *stage) {
			s.database.Exec(t, slowDevices)
			s.env["AGGREGATE_BUDGET"] = "0.02%"
		},
		check: "aggregates", result: Warn, found: "devices takes ", advice: "raise AGGREGATE_BUDGET",
	},
}

var accessFaults = map[string]fault{
	"no rights at all": {
		plant: func(t *testing.T, s *stage) { s.as(t, "NOSUPERUSER NOBYPASSRLS") },
		check: "writes", result: Fail, found: "permission denied for table service_health (the health rows)", advice: "ops-worker grants role_", also: "*",
	},
	"no right to delete": {
		plant: execAsWorker("REVOKE DELETE ON system_metrics FROM ROLE"),
		check: "writes", result: Fail, found: "permission denied for table system_metrics (retention)", advice: "ops-worker grants role_",
	},
	"no right to the alerts' sequence": {
		plant: execAsWorker("REVOKE ALL ON SEQUENCE fleet_alert_id_seq FROM ROLE"),
		check: "writes", result: Fail, found: "permission denied for sequence fleet_alert_id_seq (system alerts)", advice: "ops-worker grants role_",
	},
	"no right to what is counted": {
		plant: execAsWorker("REVOKE ALL ON device_state FROM ROLE"),
		check: "aggregates", result: Fail, found: "permission denied for table device_state (devices, devices offline)", advice: "ops-worker grants role_",
	},
	"no schema to work in": {
		plant: execAsWorker("REVOKE ALL ON SCHEMA public FROM PUBLIC, ROLE"),
		check: "database", result: Fail, found: "may not use the schema public, or there is none: GRANT USAGE ON SCHEMA public TO", also: "*",
	},
	"no right to make tables that are pending": {
		plant: execAsWorker("REVOKE CREATE ON SCHEMA public FROM ROLE; " + forget),
		check: "schema", result: Fail, found: "may not create tables in the schema public", advice: "ops-worker migrate up",
	},
	"the operator may not read a table": {
		plant: exec("REVOKE SELECT ON device_registry FROM pulse_operator"),
		check: "routes", result: Fail, found: "pulse_operator: permission denied for table device_registry (/aggregates devices)", advice: "ops-worker migrate up",
	},
	"the operator may not read behind a view": {
		plant: func(t *testing.T, s *stage) {
			newPlatform(t, s)
			s.database.Exec(t, "REVOKE SELECT ON notification_jobs FROM pulse_operator")
		},
		check: "routes", result: Fail, found: "permission denied for table notification_jobs (/aggregates deliveries, /errors deliveries", advice: "ops-worker migrate up",
	},
	"policies bind the worker": {
		plant: execAsWorker("ALTER TABLE device_state ENABLE ROW LEVEL SECURITY; ALTER TABLE device_state FORCE ROW LEVEL SECURITY"),
		check: "aggregates", result: Fail, found: `row-level security policy for table "device_state" (devices, devices offline)`, advice: "ops-worker grants role_",
	},
	"policies bind the worker behind a view": {
		plant: func(t *testing.T, s *stage) {
			newPlatform(t, s)
			execAsWorker("ALTER TABLE notification_jobs ENABLE ROW LEVEL SECURITY")(t, s)
		},
		check: "aggregates", result: Fail, found: `row-level security policy for table "notification_jobs" (deliveries, delivery totals)`, advice: "ops-worker grants role_",
	},
	"policies bind the alerts": {
		plant: execAsWorker("GRANT pulse_operator TO ROLE; ALTER TABLE fleet_alert ENABLE ROW LEVEL SECURITY"),
		check: "writes", result: Fail, found: "(system alerts)", advice: "ops-worker grants role_",
	},
	"policies on the lease": {
		plant: execAsWorker("ALTER TABLE ops_worker_lease ENABLE ROW LEVEL SECURITY"),
		check: "database", result: Fail, found: "row-level security hides rows of the worker's own tables", advice: "ALTER TABLE public.ops_worker_lease DISABLE ROW LEVEL SECURITY;", also: "*",
	},
	"policies on a table of the worker's own": {
		plant: execAsWorker("ALTER TABLE ops_worker_schema_version ENABLE ROW LEVEL SECURITY"),
		check: "database", result: Fail, found: "row-level security hides rows of the worker's own tables", advice: "ALTER TABLE public.ops_worker_schema_version DISABLE ROW LEVEL SECURITY;", also: "*",
	},
}

// forget makes the newest migration a pending one.
const forget = "DELETE FROM ops_worker_schema_version WHERE version_id = (SELECT max(version_id) FROM ops_worker_schema_version)"

var schemaFaults = map[string]fault{
	"a migration is pending": {
		plant: exec(forget),
		check: "schema", result: Warn, found: "pending: migration ", advice: "ops-worker migrate up",
	},
	"the schema is newer": {
		plant: exec("INSERT INTO ops_worker_schema_version (version_id, is_applied) VALUES (99, true)"),
		check: "schema", result: Warn, found: "migration 99 was applied by a newer ops-worker", advice: "use the newer ops-worker",
	},
	"a table in another schema": {
		plant: exec("CREATE SCHEMA iot; ALTER TABLE ops_worker_streak SET SCHEMA iot"),
		check: "database", result: Fail, found: `ALTER TABLE "iot"."ops_worker_streak" SET SCHEMA public;`, also: "*",
	},
	"an empty schema before the others": {
		plant: func(t *testing.T, s *stage) {
			s.database.Exec(t, fmt.Sprintf(`CREATE SCHEMA iot; ALTER DATABASE "%s" SET search_path = iot, public`, s.database.Name))
			s.pool.Reset()
		},
		check: "schema", result: OK,
	},
	"no view stands in": {
		plant: exec("DROP TABLE integrations; CREATE TABLE notification_channels (channel_type text, is_enabled boolean)"),
		check: "routes", result: Fail, found: `relation "integrations" does not exist (/aggregates integrations)`, advice: "restart the worker", also: "aggregates",
	},
	"a table of the platform is missing": {
		plant: exec("DROP TABLE telemetry"),
		check: "routes", result: Fail, found: `relation "telemetry" does not exist (/metrics telemetry)`, advice: "restart the worker",
	},
	"a table of the worker is missing": {
		plant: exec("DROP TABLE service_health"),
		check: "writes", result: Fail, found: `relation "service_health" does not exist (the health rows)`, advice: "restart the worker", also: "routes, lease",
	},
	"a column is missing": {
		plant: exec("ALTER TABLE device_state DROP COLUMN last_seen_at"),
		check: "routes", result: Fail, found: `column "last_seen_at" does not exist (/aggregates device states)`, advice: "the platform's migrator",
	},
	"a column that alerts need is missing": {
		plant: exec("ALTER TABLE fleet_alert DROP COLUMN fingerprint CASCADE"),
		check: "writes", result: Fail, found: "fingerprint does not exist (system alerts)", advice: "the platform's migrator", also: "system alerts",
	},
	"the lease has no key": {
		plant: exec("ALTER TABLE ops_worker_lease DROP CONSTRAINT ops_worker_lease_pkey"),
		check: "writes", result: Fail, found: "no unique or exclusion constraint matching the ON CONFLICT specification (the lease, the samples)",
	},
	"a status that is an enum": {
		plant: exec(`CREATE TYPE device_status AS ENUM ('ONLINE', 'OFFLINE');
			ALTER TABLE device_state ALTER COLUMN status DROP DEFAULT, ALTER COLUMN status TYPE device_status USING status::device_status`),
		check: "aggregates", result: Fail, found: `invalid input value for enum device_status: "STALE" (devices)`, also: "routes",
	},
	"a column that somebody added and nobody fills": {
		plant: exec("ALTER TABLE system_metrics ADD COLUMN region text; UPDATE system_metrics SET region = 'x'; ALTER TABLE system_metrics ALTER COLUMN region SET NOT NULL"),
		check: "writes", result: Fail, found: `null value in column "region" of relation "system_metrics" violates not-null constraint (the samples)`,
	},
	"a constraint that refuses our values": {
		plant: exec("ALTER TABLE service_health ADD CONSTRAINT only_good CHECK (status <> 'unhealthy')"),
		check: "writes", result: Fail, found: `violates check constraint "only_good" (the health rows)`,
	},
	"a constraint that refuses our alerts": {
		plant: exec("ALTER TABLE fleet_alert ADD CONSTRAINT low CHECK (severity < 5) NOT VALID"),
		check: "writes", result: Fail, found: `violates check constraint "low" (system alerts)`,
	},
	"every table is published": {
		plant: exec("CREATE PUBLICATION everything FOR ALL TABLES"),
		check: "writes", result: Fail, found: "publishes deletes (retention)", advice: "REPLICA IDENTITY",
	},
	"an aggregate that the server refuses": {
		plant: exec(`CREATE FUNCTION refuse() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not on this server' USING ERRCODE = '0A000'; END$$;
			ALTER TABLE alert_rules RENAME TO kept; CREATE VIEW alert_rules AS SELECT refuse() AS enabled; GRANT SELECT ON alert_rules TO pulse_operator`),
		check: "aggregates", result: Fail, found: "not on this server (rules)",
	},
	"an aggregate that takes long": {
		plant: exec(slowDevices),
		check: "aggregates", result: OK, found: "so it is counted every",
	},
	"TimescaleDB that is not installed yet": {
		plant: func(t *testing.T, s *stage) {
			s.database.OfferTimescale(t)
			s.pool.Reset()
		},
		check: "timescaledb", result: OK, found: "the server has it",
	},
}

var activityFaults = map[string]fault{
	"a lease from the future": {
		plant: exec("UPDATE ops_worker_lease SET expires_at = now() + interval '29 days'"),
		check: "lease", result: Fail, found: "holds it for 28d23h more, which is longer than a lease lasts", advice: "UPDATE ops_worker_lease SET expires_at = now()",
	},
	"nobody collects": {
		plant: func(t *testing.T, s *stage) { s.release(t) },
		check: "lease", result: Warn, found: "free: worker-1/1/0a1b2c3d held it (epoch 1) ", advice: "start the worker",
	},
	"the lease was handed back": {
		plant: func(t *testing.T, s *stage) {
			if err := lease.NewPostgres(s.client, 0).Release(t.Context(), s.token); err != nil {
				t.Fatal(err)
			}
		},
		check: "lease", result: Warn, found: "free: worker-1/1/0a1b2c3d handed it back (epoch 1) ", advice: "start the worker", also: "other writer",
	},
	"nobody ever collected": {
		plant: exec("DELETE FROM ops_worker_lease; DELETE FROM system_metrics; DELETE FROM service_health"),
		check: "lease", result: Warn, found: "no ops-worker has ever collected here", advice: "start the worker",
	},
	"a worker with an interval of its own": {
		plant: func(t *testing.T, s *stage) {
			s.database.Exec(t, "UPDATE ops_worker_lease SET cycle_interval = '10 seconds'")
			s.env["METRICS_COLLECTION_INTERVAL"] = "60"
		},
		check: "lease", result: OK, found: "it collects every 10s; METRICS_COLLECTION_INTERVAL is 1m here",
	},
	"a worker that stores nothing": {
		plant: exec("UPDATE system_metrics SET time = time - interval '5 minutes'; UPDATE ops_worker_lease SET last_cycle_at = last_cycle_at - interval '5 minutes'"),
		check: "lease", result: Warn, found: "it has stored no metrics cycle for 5m", advice: "see its log",
	},
	"a worker that checks nothing": {
		plant: exec("UPDATE service_health SET checked_at = checked_at - interval '10 minutes'"),
		check: "lease", result: Warn, found: "it has checked no service for 10m", advice: "see its log",
	},
	"a sample that the lease knows nothing of": {
		plant: exec("INSERT INTO system_metrics (time, metric_name, service, value) VALUES (clock_timestamp(), 'connections', 'postgres', 1)"),
		check: "other writer", result: Fail, found: "a sample of", advice: "in the platform's own ops_worker",
	},
	"a sample from far ahead hides nothing": {
		plant: exec(`INSERT INTO system_metrics (time, metric_name, service, value)
			VALUES (now() + interval '2 days', 'connections', 'postgres', 1), (clock_timestamp(), 'connections', 'postgres', 1)`),
		check: "other writer", result: Fail, found: "a sample of",
	},
	"the API collects, and nobody holds the lease": {
		plant: func(t *testing.T, s *stage) {
			s.release(t)
			s.database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, value) VALUES (clock_timestamp(), 'connections', 'postgres', 1);
				UPDATE service_health SET checked_at = clock_timestamp()`)
		},
		check: "other writer", result: Warn, found: "service_health was refreshed", advice: "this is the state before the cut-over", also: "lease",
	},
	"the API collects, and nobody ever held the lease": {
		plant: exec("DROP TABLE ops_worker_lease"),
		check: "other writer", result: Warn, found: "that no ops-worker wrote", advice: "before the cut-over", also: "*",
	},
	"an alert of a service that is not monitored": {
		plant: exec(alert("OPEN", "mqtt")),
		check: "system alerts", result: Warn, found: "mqtt: open for", advice: "AND fingerprint = 'system-health:mqtt'",
	},
	"an acknowledged alert of a service that is not monitored": {
		plant: exec(alert("ACKNOWLEDGED", "mqtt")),
		check: "system alerts", result: Warn, found: "mqtt: acknowledged for",
	},
	"an alert by the older monitor's name": {
		plant: exec(alert("OPEN", "delivery_worker")),
		check: "system alerts", result: Warn, found: "delivery_worker: open for", advice: "AND fingerprint = 'system-health:delivery_worker'",
	},
	"a health row that nobody refreshes": {
		plant: exec("INSERT INTO service_health (service, status, checked_at) VALUES ('delivery_worker', 'healthy', now() - interval '1 hour'), ('new', 'healthy', now())"),
		check: "system alerts", result: Warn, found: "delivery_worker: service_health has a row", advice: "DELETE FROM service_health WHERE service = 'delivery_worker';",
	},
	"an alert that nobody closes": {
		plant: func(t *testing.T, s *stage) {
			s.database.Exec(t, alert("OPEN", "ingest"))
			s.env["SYSTEM_ALERT_ENABLED"] = "off"
		},
		check: "system alerts", result: Warn, found: "SYSTEM_ALERT_ENABLED is off",
	},
}

// Each fault shows in its check and in no other, with advice that ends it.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, faults := range []map[string]fault{settingFaults, accessFaults, schemaFaults, activityFaults} {
		for name, fault := range faults {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newStage(t)
				fault.plant(t, s)
				fault.verify(t, s, s.run(t))
			})
		}
	}
}

func (w fault) verify(t *testing.T, s *stage, r Report) {
	t.Helper()
	c := of(t, r, w.check)
	found, advice := strings.Join(c.Found, "\n"), strings.Join(c.Advice, "\n")
	if c.Result != w.result || !strings.Contains(found, w.found) || !strings.Contains(advice, w.advice) {
		t.Errorf("%s is %s: %q\nadvice %q\nwant %s: %q\nadvice %q", c.Name, c.Result, found, advice, w.result, w.found, w.advice)
	}
	if want := map[Result]int{Warn: 1, Fail: 2}[w.result]; r.ExitCode() < want {
		t.Errorf("exit code %d, want %d", r.ExitCode(), want)
	}
	for _, c := range r.Checks {
		expected := c.Name == w.check || w.also == "*" || slices.Contains(strings.Split(w.also, ", "), c.Name)
		if c.Result != OK && c.Result != Skipped && c.Name != "server version" && !expected {
			t.Errorf("%s is %s too: %q", c.Name, c.Result, c.Found)
		}
	}
	if follow(t, s, c.Advice) {
		if again := of(t, s.run(t), w.check); strings.Contains(strings.Join(again.Found, "\n"), w.found) {
			t.Errorf("after %q it is still there: %q", c.Advice, again.Found)
		}
	}
}

var (
	adviceSQL    = regexp.MustCompile(`(?:CREATE|ALTER|UPDATE|DELETE|DROP|INSERT)\b.*;`)
	adviceGrants = regexp.MustCompile(`ops-worker grants (\S+)`)
)

// follow does what the advice says, as far as that is SQL or a command of ours,
// and reports whether there was any.
func follow(t *testing.T, s *stage, advice []string) (followed bool) {
	t.Helper()
	for _, line := range advice {
		if sql := adviceSQL.FindString(line); sql != "" {
			s.database.Exec(t, sql)
			followed = true
		}
		if strings.Contains(line, "ops-worker migrate up") || strings.Contains(line, "restart the worker") {
			if _, err := schema.MigrateUp(t.Context(), s.pool, false); err != nil {
				t.Errorf("migrate up: %v", err)
			}
			followed = true
		}
		if match := adviceGrants.FindStringSubmatch(line); match != nil {
			s.grant(t, match[1])
			followed = true
		}
	}
	return followed
}

// grant does what `ops-worker grants ROLE | psql` does.
func (s *stage) grant(t *testing.T, role string) {
	t.Helper()
	var script string
	err := db.InTx(t.Context(), s.pool, db.ReadOnly, db.Limits{Statement: 10 * time.Second, Lock: 10 * time.Second}, func(q *db.Queries) (err error) {
		script, err = schema.Grants(t.Context(), q, role)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.database.Exec(t, script)
}

// slowDevices makes the devices take most of a second.
const slowDevices = `ALTER TABLE device_state RENAME TO devices;
	CREATE VIEW device_state AS SELECT d.* FROM devices d CROSS JOIN (SELECT pg_sleep(0.7)) slow;
	GRANT SELECT ON device_state TO pulse_operator;
	INSERT INTO devices (tenant_id, device_id, site_id, status) VALUES ('t', 'd', 's', 'ONLINE')`

// newPlatform puts the newer platform's tables, and the worker's views over
// them, in the place of the old ones.
func newPlatform(t *testing.T, s *stage) {
	t.Helper()
	s.database.Exec(t, `
		DROP TABLE integrations, delivery_jobs;
		CREATE TABLE notification_channels (
			channel_id serial PRIMARY KEY, tenant_id text, name text, channel_type text, config jsonb,
			is_enabled boolean, created_at timestamptz, updated_at timestamptz);
		CREATE TABLE notification_jobs (
			job_id bigserial PRIMARY KEY, tenant_id text, alert_id bigint, channel_id int, rule_id int,
			deliver_on_event text, status text, attempts int, next_run_at timestamptz, last_error text,
			payload_json jsonb, created_at timestamptz, updated_at timestamptz)`)
	if _, err := schema.MigrateUp(t.Context(), s.pool, false); err != nil {
		t.Fatal(err)
	}
}

func alert(status, service string) string {
	return `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at)
		VALUES ('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:` + service + `', '` + status + `', 's', now() - interval '2 hours')`
}

// What delivery's recovery closes is no fault.
func TestAnAlertOfAFormerNameIsClosedByTheService(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.env["DELIVERY_HEALTH_URL"] = service(t, http.StatusOK)
	s.database.Exec(t, alert("OPEN", "delivery_worker"))
	got := of(t, s.run(t), "system alerts")
	if got.Result != OK || len(got.Found) != 1 || !strings.Contains(got.Found[0], "closed when delivery is healthy again") {
		t.Errorf("%+v", got)
	}
}

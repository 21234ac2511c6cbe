package doctor

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ops_worker/internal/lease"
	"ops_worker/internal/schema"
)

// TestFaults plants one fault at a time on a platform in which all is well.
func TestFaults(t *testing.T) {
	t.Parallel()
	exec := func(sql string) func(*testing.T, *stage) {
		return func(t *testing.T, s *stage) { t.Helper(); s.database.Exec(t, sql) }
	}
	for name, fault := range map[string]struct {
		plant  func(t *testing.T, s *stage)
		check  string
		result Result
		found  string
		advice string
		// also are checks that the fault spoils besides its own.
		also string
	}{
		"a setting is mended": {
			plant: func(_ *testing.T, s *stage) { s.env["HEALTH_CHECK_INTERVAL"] = "1" },
			check: "settings", result: Warn, found: "HEALTH_CHECK_INTERVAL is raised",
			also: "other writer, health rows", // which go by the interval
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
		"no grants at all": {
			plant: func(t *testing.T, s *stage) { s.as(t, "NOSUPERUSER NOBYPASSRLS") },
			check: "privileges", result: Fail, found: "lacks INSERT, SELECT, UPDATE on service_health (used by the health rows)",
			advice: "GRANT INSERT, SELECT, UPDATE ON service_health TO role_", also: "*",
		},
		"no right to delete": {
			plant: func(t *testing.T, s *stage) {
				role := s.worker(t)
				s.database.Exec(t, "GRANT pulse_operator TO "+role+"; REVOKE DELETE ON system_metrics FROM "+role)
			},
			check: "privileges", result: Fail, found: "lacks DELETE on system_metrics", advice: "GRANT DELETE ON system_metrics TO role_",
		},
		"no right to the alerts' sequence": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, "REVOKE ALL ON SEQUENCE fleet_alert_id_seq FROM "+s.worker(t))
			},
			check: "privileges", result: Fail, found: "may not draw from public.fleet_alert_id_seq",
			advice: "GRANT USAGE ON SEQUENCE public.fleet_alert_id_seq TO role_",
		},
		"no right to make tables that are pending": {
			plant: func(t *testing.T, s *stage) {
				role := s.worker(t)
				s.database.Exec(t, "REVOKE CREATE ON SCHEMA public FROM "+role+"; DELETE FROM ops_worker_schema_version WHERE version_id = (SELECT max(version_id) FROM ops_worker_schema_version)")
			},
			check: "privileges", result: Fail, found: "may not create tables in the schema public", advice: "GRANT USAGE, CREATE ON SCHEMA public", also: "schema",
		},
		"the operator may not read a table": {
			plant: exec("REVOKE SELECT ON device_registry FROM pulse_operator"),
			check: "privileges", result: Fail, found: "pulse_operator lacks SELECT on device_registry (used by /aggregates devices)",
			advice: "GRANT SELECT ON device_registry TO pulse_operator;",
		},
		"the operator may not read behind a view": {
			plant: func(t *testing.T, s *stage) {
				newPlatform(t, s)
				s.database.Exec(t, "REVOKE SELECT ON notification_jobs FROM pulse_operator")
			},
			check: "privileges", result: Fail, found: "pulse_operator lacks SELECT on notification_jobs (used by /aggregates deliveries, /errors deliveries",
		},
		"no schema to work in": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, "REVOKE ALL ON SCHEMA public FROM PUBLIC, "+s.worker(t))
			},
			check: "role", result: Fail, found: "may not use the schema public, or there is none", advice: "GRANT USAGE ON SCHEMA public TO role_", also: "*",
		},
		"policies on the worker's own tables": {
			plant: func(t *testing.T, s *stage) {
				s.worker(t)
				s.database.Exec(t, "ALTER TABLE ops_worker_schema_version ENABLE ROW LEVEL SECURITY")
			},
			check: "schema", result: Fail, found: "which migrations are applied", also: "*",
			advice: "ALTER TABLE public.ops_worker_schema_version DISABLE ROW LEVEL SECURITY;",
		},
		"every table is published": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, "CREATE PUBLICATION everything FOR ALL TABLES")
			},
			check: "tables", result: Fail, found: "publishes deletes (used by retention)", advice: "ALTER TABLE system_metrics REPLICA IDENTITY FULL;",
		},
		"an aggregate that the server refuses": {
			plant: exec(`CREATE FUNCTION refuse() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not on this server' USING ERRCODE = '0A000'; END$$;
				ALTER TABLE alert_rules RENAME TO kept; CREATE VIEW alert_rules AS SELECT refuse() AS enabled; GRANT SELECT ON alert_rules TO pulse_operator`),
			check: "aggregates", result: Fail, found: "rules is not counted: not on this server", advice: "what the server says",
		},
		"policies bind the worker": {
			plant: func(t *testing.T, s *stage) {
				s.worker(t)
				s.database.Exec(t, "ALTER TABLE device_state ENABLE ROW LEVEL SECURITY; ALTER TABLE device_state FORCE ROW LEVEL SECURITY")
			},
			check: "row security", result: Fail, found: `row-level security policy for table "device_state" (used by the aggregate devices, the aggregate devices offline)`,
			advice: "GRANT pulse_operator TO role_",
		},
		"policies bind the worker behind a view": {
			plant: func(t *testing.T, s *stage) {
				newPlatform(t, s)
				s.worker(t)
				s.database.Exec(t, "ALTER TABLE notification_jobs ENABLE ROW LEVEL SECURITY")
			},
			check: "row security", result: Fail, found: `row-level security policy for table "notification_jobs" (used by the aggregate deliveries, the aggregate delivery totals)`,
			advice: "GRANT pulse_operator TO role_",
		},
		"policies bind the alerts": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, "GRANT pulse_operator TO "+s.worker(t)+"; ALTER TABLE fleet_alert ENABLE ROW LEVEL SECURITY")
			},
			check: "privileges", result: Fail, found: "pulse_operator lacks INSERT, UPDATE on fleet_alert (used by system alerts)",
			advice: "GRANT INSERT, UPDATE ON fleet_alert TO pulse_operator",
		},
		"policies bind the worker's own table": {
			plant: func(t *testing.T, s *stage) {
				s.worker(t)
				s.database.Exec(t, "ALTER TABLE system_metrics ENABLE ROW LEVEL SECURITY")
			},
			check: "row security", result: Fail, found: `row-level security policy for table "system_metrics" (used by the lease, the samples, retention)`, advice: "DISABLE ROW LEVEL SECURITY",
			also: "samples, size", // which see no row
		},
		"a migration is pending": {
			plant: exec("DELETE FROM ops_worker_schema_version WHERE version_id = (SELECT max(version_id) FROM ops_worker_schema_version)"),
			check: "schema", result: Warn, found: "pending: migration ", advice: "ops-worker migrate up",
		},
		"the schema is newer": {
			plant: exec("INSERT INTO ops_worker_schema_version (version_id, is_applied) VALUES (99, true)"),
			check: "schema", result: Warn, found: "migration 99 was applied by a newer ops-worker", advice: "use the newer ops-worker",
		},
		"a table of the platform is missing": {
			plant: exec("DROP TABLE telemetry"),
			check: "tables", result: Fail, found: `relation "telemetry" does not exist (used by /metrics telemetry)`, advice: "restart the worker",
		},
		"a table of the worker is missing": {
			plant: exec("DROP TABLE service_health"),
			check: "tables", result: Fail, found: `relation "service_health" does not exist (used by the health rows`, advice: "restart the worker",
		},
		"a column is missing": {
			plant: exec("ALTER TABLE device_state DROP COLUMN last_seen_at"),
			check: "tables", result: Fail, found: `column "last_seen_at" does not exist (used by /aggregates device states)`, advice: "the platform's migrator",
		},
		"a column that alerts need is missing": {
			plant: exec("ALTER TABLE fleet_alert DROP COLUMN fingerprint CASCADE"),
			check: "tables", result: Fail, found: "fingerprint does not exist (used by system alerts)",
		},
		"a table of ours hides its successor": {
			plant: exec("CREATE TABLE notification_jobs (job_id bigint)"),
			check: "stand-ins", result: Fail, found: "delivery_jobs is a table that ops_worker made", advice: "DROP TABLE delivery_jobs",
		},
		"no view stands in": {
			plant: exec("DROP TABLE integrations; CREATE TABLE notification_channels (channel_type text, is_enabled boolean)"),
			check: "stand-ins", result: Warn, found: "integrations is missing, and no view over notification_channels", advice: "restart the worker", also: "tables",
		},
		"a view from before the upgrade": {
			plant: func(t *testing.T, s *stage) {
				newPlatform(t, s)
				s.database.Exec(t, "ALTER VIEW delivery_jobs RESET (security_invoker)")
			},
			check: "stand-ins", result: Warn, found: "delivery_jobs is a view over notification_jobs from before", advice: "DROP VIEW delivery_jobs",
		},
		"the clocks differ": {
			plant: func(_ *testing.T, s *stage) { s.clock = 5 * time.Second },
			check: "clock", result: Warn, found: "behind this machine's", advice: "NTP",
		},
		"the clocks differ by minutes": {
			plant: func(_ *testing.T, s *stage) { s.clock = -3 * time.Minute },
			check: "clock", result: Fail, found: "ahead of this machine's", advice: "NTP",
		},
		"a service is down": {
			plant: func(t *testing.T, s *stage) { s.env["INGEST_HEALTH_URL"] = "http://" + refusing(t) },
			check: "services", result: Fail, found: "ingest: down, connection refused", advice: "start ingest, or correct INGEST_HEALTH_URL",
		},
		"several instances behind one address": {
			plant: func(t *testing.T, s *stage) { s.env["INGEST_HEALTH_URL"] = inTurn(t, 5_000_000, 20_000) },
			check: "services", result: Warn, found: "ingest: several instances answer at 127.0.0.1:", advice: "name each instance in INGEST_HEALTH_URL, or let that lead to a headless service",
		},
		"a service is degraded": {
			plant: func(t *testing.T, s *stage) {
				s.env["EVALUATOR_HEALTH_URL"] = service(t, http.StatusServiceUnavailable)
			},
			check: "services", result: Warn, found: "evaluator: degraded, HTTP 503", advice: "see the log of evaluator",
		},
		"an extra service does not speak HTTP": {
			plant: func(t *testing.T, s *stage) {
				s.env["HEALTH_SERVICES"] = "billing=http://" + greeting(t) + "/health"
			},
			check: "services", result: Fail, found: "billing: unknown", advice: "HEALTH_SERVICES", also: "samples, health rows",
		},
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
		"the lease has no key": {
			plant: exec("ALTER TABLE ops_worker_lease DROP CONSTRAINT ops_worker_lease_pkey"),
			check: "tables", result: Fail, found: "no unique or exclusion constraint matching the ON CONFLICT specification (used by the lease",
			advice: "ALTER TABLE ops_worker_lease ADD PRIMARY KEY (name);",
		},
		"a lease without a key was never held": {
			plant: exec("DELETE FROM ops_worker_lease; ALTER TABLE ops_worker_lease DROP CONSTRAINT ops_worker_lease_pkey"),
			check: "lease", result: Warn, found: "no ops-worker has ever collected here", advice: "mend what has failed above (tables)", also: "*",
		},
		"the health rows have no key": {
			plant: exec("ALTER TABLE service_health DROP CONSTRAINT service_health_pkey"),
			check: "tables", result: Fail, found: "(used by the health rows)", advice: "ALTER TABLE service_health ADD PRIMARY KEY (service);",
		},
		"a status that is an enum": {
			plant: exec(`CREATE TYPE device_status AS ENUM ('ONLINE', 'OFFLINE');
				ALTER TABLE device_state ALTER COLUMN status DROP DEFAULT, ALTER COLUMN status TYPE device_status USING status::device_status`),
			check: "tables", result: Fail, found: `invalid input value for enum device_status: "STALE"`,
			advice: "ALTER TYPE device_status ADD VALUE 'STALE';", also: "other writer, samples",
		},
		"a column of ours of another type": {
			plant: exec("ALTER TABLE service_health ALTER COLUMN status TYPE integer USING 0"),
			check: "tables", result: Fail, found: `column "status" is of type integer but expression is of type text`,
			advice: "ALTER TABLE service_health ALTER COLUMN status TYPE text;", also: "*",
		},
		"a column that somebody added and nobody fills": {
			plant: exec("ALTER TABLE system_metrics ADD COLUMN region text; UPDATE system_metrics SET region = 'x'; ALTER TABLE system_metrics ALTER COLUMN region SET NOT NULL"),
			check: "tables", result: Fail, found: `null value in column "region"`,
			advice: "ALTER TABLE system_metrics ALTER COLUMN region DROP NOT NULL;",
		},
		"a constraint that refuses our values": {
			plant: exec("ALTER TABLE service_health ADD CONSTRAINT only_good CHECK (status <> 'unhealthy')"),
			check: "tables", result: Fail, found: `violates check constraint "only_good"`, advice: "ALTER TABLE service_health DROP CONSTRAINT only_good;",
		},
		"a constraint that refuses our alerts": {
			plant: exec("ALTER TABLE fleet_alert ADD CONSTRAINT low CHECK (severity < 5) NOT VALID"),
			check: "tables", result: Fail, found: `violates check constraint "low" (used by system alerts)`, advice: "ALTER TABLE fleet_alert DROP CONSTRAINT low;",
		},
		"a worker with an interval of its own": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, "UPDATE ops_worker_lease SET cycle_interval = '10 seconds'")
				s.env["METRICS_COLLECTION_INTERVAL"] = "60"
			},
			check: "lease", result: OK, found: "it collects every 10s; METRICS_COLLECTION_INTERVAL is 1m here",
		},
		"a hidden table that has rows": {
			plant: exec(`INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, payload_json)
				VALUES ('t', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', '{}'); CREATE TABLE notification_jobs (job_id bigint)`),
			check: "stand-ins", result: OK, found: "delivery_jobs: the platform's own table, used as it is",
		},
		"a hidden table that the platform went on from": {
			plant: exec("ALTER TABLE delivery_jobs ADD COLUMN priority integer; CREATE TABLE notification_jobs (job_id bigint)"),
			check: "stand-ins", result: OK, found: "delivery_jobs: the platform's own table, used as it is",
		},
		"TimescaleDB that is not installed yet": {
			plant: func(t *testing.T, s *stage) {
				s.database.OfferTimescale(t)
				s.pool.Reset()
			},
			check: "timescaledb", result: OK, found: "the server has it",
		},
		"an empty schema before the others": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, fmt.Sprintf(`CREATE SCHEMA iot; ALTER DATABASE "%s" SET search_path = iot, public`, s.database.Name))
				s.pool.Reset()
			},
			check: "role", result: OK, found: "",
		},
		"a table in another schema": {
			plant: exec("CREATE SCHEMA iot; ALTER TABLE ops_worker_streak SET SCHEMA iot"),
			check: "schema", result: Fail, found: `ALTER TABLE "iot"."ops_worker_streak" SET SCHEMA public;`, also: "tables",
		},
		"the platform's migrator has run none of its files": {
			plant: exec("DELETE FROM schema_migrations; INSERT INTO schema_migrations (version, filename) VALUES ('000', '000.sql')"),
			check: "migrator", result: Fail, found: "it has noted 1 files and run none", advice: "and run the platform's migrator again",
		},
		"the platform's migrator would run none of its files": {
			plant: exec("DROP TABLE schema_migrations"),
			check: "migrator", result: Warn, found: "would take this database for one that it has migrated", advice: "ops-worker migrate up",
		},
		"the login role may not be the operator": {
			plant: func(t *testing.T, s *stage) { s.worker(t) },
			check: "role", result: Warn, found: "may not take on pulse_operator", advice: "GRANT pulse_operator TO role_",
		},
		"nobody ever collected": {
			plant: exec("DELETE FROM ops_worker_lease; DELETE FROM system_metrics; DELETE FROM service_health"),
			check: "lease", result: Warn, found: "no ops-worker has ever collected here", advice: "start the worker",
		},
		"the samples are old": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, `UPDATE system_metrics SET time = time - interval '5 minutes';
					UPDATE ops_worker_lease SET last_cycle_at = last_cycle_at - interval '5 minutes'`)
			},
			check: "samples", result: Warn, found: "ingest: the newest sample is 5m", advice: "see the worker's log", also: "lease",
		},
		"a series stands still": {
			plant: exec("DELETE FROM system_metrics WHERE metric_name = 'deliveries_pending' AND time > now() - interval '3 minutes'"),
			check: "samples", result: Warn, found: "deliveries_pending of platform: the newest is 3m", advice: "see row security",
		},
		"a series of a minute stands still": {
			plant: exec("DELETE FROM system_metrics WHERE metric_name = 'sites' AND time > now() - interval '4 minutes'"),
			check: "samples", result: Warn, found: "sites of platform: the newest is 4m", advice: "see row security",
		},
		"a service has no sample": {
			plant: exec("DELETE FROM system_metrics WHERE service = 'evaluator'"),
			check: "samples", result: Warn, found: "evaluator: no sample, while the lease is held",
		},
		"a sample is from the future": {
			plant: exec("UPDATE system_metrics SET time = now() + interval '1 hour' WHERE service = 'platform' AND time = (SELECT max(time) FROM system_metrics)"),
			check: "samples", result: Warn, found: "platform: the newest sample is 59m", advice: "the database's clock", also: "other writer",
		},
		"a sample that the lease knows nothing of": {
			plant: exec("INSERT INTO system_metrics (time, metric_name, service, value) VALUES (clock_timestamp(), 'connections', 'postgres', 1)"),
			check: "other writer", result: Fail, found: "a sample of", advice: "out of the platform's own ops_worker",
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
			plant: func(t *testing.T, s *stage) { s.database.Exec(t, "DROP TABLE ops_worker_lease") },
			check: "other writer", result: Warn, found: "that no ops-worker wrote", advice: "before the cut-over", also: "*",
		},
		"a health row of a service that is not monitored": {
			plant: exec("INSERT INTO service_health (service, status, checked_at) VALUES ('delivery', 'unhealthy', now() - interval '3 days')"),
			check: "health rows", result: Warn, found: "delivery (unhealthy) is not monitored, and was checked 3d ago",
			advice: "set DELIVERY_HEALTH_URL, or DELETE FROM service_health WHERE service = 'delivery';",
		},
		"the health rows are old": {
			plant: exec("UPDATE service_health SET checked_at = checked_at - interval '10 minutes'"),
			check: "health rows", result: Warn, found: "ingest was checked 10m", advice: "HEALTH_CHECK_INTERVAL",
		},
		"a health row is missing": {
			plant: exec("DELETE FROM service_health WHERE service = 'postgres'"),
			check: "health rows", result: Warn, found: "postgres has no row",
		},
		"an alert of a service that is not monitored": {
			plant: exec(alert("OPEN", "mqtt")),
			check: "system alerts", result: Warn, found: "mqtt: open for", advice: "AND fingerprint = 'system-health:mqtt'",
		},
		"an acknowledged alert of a service that is not monitored": {
			plant: exec(alert("ACKNOWLEDGED", "mqtt")),
			check: "system alerts", result: Warn, found: "mqtt: acknowledged for",
		},
		"two alerts of one service": {
			plant: exec(alert("OPEN", "ingest") + ";" + alert("ACKNOWLEDGED", "ingest")),
			check: "system alerts", result: Warn, found: "ingest has 2 open system alerts",
		},
		"an alert that nobody closes": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, alert("OPEN", "ingest"))
				s.env["SYSTEM_ALERT_ENABLED"] = "off"
			},
			check: "system alerts", result: Warn, found: "SYSTEM_ALERT_ENABLED is off",
		},
		"a table that takes long": {
			plant: exec(slowDevices),
			check: "aggregates", result: OK, found: "so it is counted every", also: "tables",
		},
		"a table that takes long, and a small budget": {
			plant: func(t *testing.T, s *stage) {
				s.database.Exec(t, slowDevices)
				s.env["AGGREGATE_BUDGET"] = "0.02%"
			},
			check: "aggregates", result: Warn, found: "devices takes ", advice: "raise AGGREGATE_BUDGET", also: "tables",
		},
		"samples outlive their retention": {
			plant: exec("INSERT INTO system_metrics (time, metric_name, service, value) VALUES (now() - interval '9 days', 'routes_matched', 'dispatcher', 1)"),
			check: "size", result: Warn, found: "older than the 7d that they are kept", advice: "DELETE on system_metrics",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			fault.plant(t, s)
			r := s.run(t)
			c := of(t, r, fault.check)
			if c.Result != fault.result {
				t.Errorf("%s is %s, want %s", c.Name, c.Result, fault.result)
			}
			if found := strings.Join(c.Found, "\n"); !strings.Contains(found, fault.found) {
				t.Errorf("found %q\nwant  %q", found, fault.found)
			}
			if advice := strings.Join(c.Advice, "\n"); !strings.Contains(advice, fault.advice) {
				t.Errorf("advice %q\nwant   %q", advice, fault.advice)
			}
			if want := map[Result]int{Warn: 1, Fail: 2}[fault.result]; r.ExitCode() < want {
				t.Errorf("exit code %d, want %d", r.ExitCode(), want)
			}
			if follow(t, s, c.Advice) {
				if again := of(t, s.run(t), fault.check); strings.Contains(strings.Join(again.Found, "\n"), fault.found) {
					t.Errorf("after %q it is still there: %q", c.Advice, again.Found)
				}
			}
			for _, c := range r.Checks {
				spoilt := c.Name == fault.check || fault.also == "*" || c.Result == Skipped || c.Name == "server version" ||
					c.Name == "role" && c.Result == Warn // of a login role that is not granted the operator's
				for other := range strings.SplitSeq(fault.also, ", ") {
					spoilt = spoilt || c.Name == other
				}
				if c.Result != OK && !spoilt {
					t.Errorf("%s is %s too: %q", c.Name, c.Result, c.Found)
				}
			}
		})
	}
}

// slowDevices makes the devices take most of a second.
const slowDevices = `ALTER TABLE device_state RENAME TO devices;
	CREATE VIEW device_state AS SELECT d.* FROM devices d CROSS JOIN (SELECT pg_sleep(0.7)) slow;
	GRANT SELECT ON device_state TO pulse_operator;
	INSERT INTO devices (tenant_id, device_id, site_id, status) VALUES ('t', 'd', 's', 'ONLINE')`

// newPlatform puts the newer platform's tables, and the worker's views over
// them, in the place of the old ones.
// inTurn are instances behind one address, another one at each request.
func inTurn(t *testing.T, received ...int) string {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := asked.Add(1)
		fmt.Fprintf(w, `{"counters":{"messages_received":%d}}`, received[int(n)%len(received)])
	}))
	t.Cleanup(server.Close)
	return server.URL
}

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
	if _, err := schema.MigrateUp(t.Context(), s.pool); err != nil {
		t.Fatal(err)
	}
}

func alert(status, service string) string {
	return `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at)
		VALUES ('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:` + service + `', '` + status + `', 's', now() - interval '2 hours')`
}

func TestStandInsAreNamed(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	newPlatform(t, s)
	r := s.run(t)
	if c := of(t, r, "stand-ins"); c.Result != OK || !strings.Contains(strings.Join(c.Found, "\n"), "delivery_jobs: a view over notification_jobs, made by ops_worker") {
		t.Errorf("stand-ins: %+v", c)
	}
	if r.ExitCode() != 0 && of(t, r, "server version").Result == OK {
		t.Errorf("exit code %d:\n%s", r.ExitCode(), text(t, r))
	}
}

var adviceSQL = regexp.MustCompile(`(?:CREATE|GRANT|ALTER|UPDATE|DELETE|DROP|INSERT)\b.*;`)

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
			if _, err := schema.MigrateUp(t.Context(), s.pool); err != nil {
				t.Errorf("migrate up: %v", err)
			}
			followed = true
		}
	}
	return followed
}

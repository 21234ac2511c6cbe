package status

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
)

// platform is a worker's work of some minutes: a counter that grows by ten a
// second and was restarted once, a gauge, and the rest.
const platform = `
INSERT INTO ops_worker_lease (name, holder, epoch, acquired_at, expires_at, ttl, cycle_interval, last_cycle_at)
VALUES ('ops_worker', 'the leader', 3, now() - interval '1 hour', now() + interval '14 seconds', '15 seconds', '5 seconds', now() - interval '1 second');
INSERT INTO service_health (service, status, latency_ms, details, checked_at) VALUES
    ('ingest', 'healthy', 12, '{"status": "healthy", "certificate_ends": "2026-03-05T13:34:56Z"}', now() - interval '10 seconds'),
    ('evaluator', 'unhealthy', 7, '{"status": "degraded", "http_status": 503}', now() - interval '10 seconds'),
    ('odd', 'unhealthy', NULL, '"no object"', now() - interval '10 seconds'),
    ('odder', 'unhealthy', NULL, '{"status": ["down"], "http_status": 1e99, "error": "a\u001b[31mb"}', now() - interval '10 seconds');
INSERT INTO ops_worker_streak (service, healthy, since, checks, checked_at) VALUES
    ('ingest', true, now() - interval '2 hours', 120, now() - interval '10 seconds');
INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'System Alerts'), ('t1', 'A tenant');
INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at) VALUES
    ('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:evaluator', 'OPEN', 'Service unhealthy: evaluator (HTTP 503)', now() - interval '3 minutes'),
    ('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:odd', 'ACKNOWLEDGED', 'Service unhealthy: odd', now() - interval '2 hours'),
    ('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:ingest', 'CLOSED', 'Service unhealthy: ingest', now() - interval '1 day'),
    ('t1', 's', 'd', 'THRESHOLD', 'x', 'OPEN', 'a tenant''s own', now());
INSERT INTO ops_worker_watch (service, began_at, ended_at) VALUES ('ingest', now() - interval '8 days', now());
-- The newest point is a second old, the oldest ten minutes.
INSERT INTO system_metrics (time, metric_name, service, value)
SELECT now() - make_interval(secs => 1 + 5 * (120 - i)), x.metric_name, x.service, x.value
FROM generate_series(1, 120) i
CROSS JOIN LATERAL (VALUES
    ('messages_written', 'ingest', CASE WHEN i < 60 THEN 100000 + 50 * i ELSE 50 * (i - 59) END),
    ('queue_depth', 'ingest', i),
    ('healthy', 'ingest', 1),
    ('devices_online', 'platform', 7),
    ('orphans', NULL, 3)
) AS x (metric_name, service, value);
INSERT INTO system_metrics (time, metric_name, service, value) VALUES
    (now() - interval '3 days', 'routes_matched', 'dispatcher', 41),
    (now() - interval '2 days', 'routes_matched', 'dispatcher', 42),
    (now() - interval '2 minutes', 'jobs_failed', 'delivery', 9),
    (now() - interval '1 minute', 'jobs_failed', 'delivery', 7),
    (now() - interval '2 days', 'jobs_pending', 'delivery', 5)`

func newReader(t *testing.T, address string) *Reader {
	t.Helper()
	cfg, err := config.FromEnvironment([]string{"DATABASE_URL=" + address, "STATE_DIR=" + t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.timeout = 20 * time.Second // of a loaded machine
	t.Cleanup(r.pool.Close)
	return r
}

func (r *Reader) report(t *testing.T) Report {
	t.Helper()
	report, err := r.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func seriesOf(t *testing.T, r Report, service, metric string) Series {
	t.Helper()
	i := slices.IndexFunc(r.Series, func(s Series) bool { return s.Service == service && s.Metric == metric })
	if i < 0 {
		t.Fatalf("%s of %s is not in %v", metric, service, r.Series)
	}
	return r.Series[i]
}

func points(s Series) (n int) {
	for _, v := range s.LastHour {
		if v != nil {
			n++
		}
	}
	return n
}

func near(v *float64, want float64) bool { return v != nil && math.Abs(*v-want) < 1e-6 }

func wantFull(t *testing.T, r Report) {
	t.Helper()
	if len(r.Notices) > 0 || len(r.Unreadable) > 0 {
		t.Errorf("notices %v, unreadable %v", r.Notices, r.Unreadable)
	}
	if r.Database.Standby || r.Database.Version == "" || r.Database.ReplayLagSeconds != nil {
		t.Errorf("database %+v", r.Database)
	}
	if l := r.Leader; l == nil || !l.Held || l.Holder != "the leader" || l.Epoch != 3 || l.IntervalSeconds != 5 || l.CyclesBehind > 2 || l.StoredUpTo == nil {
		t.Errorf("leader %+v", l)
	}
	if old := r.At.Sub(*r.NewestSample); old < time.Second || old > time.Minute {
		t.Errorf("the newest sample is %s old", old)
	}
	var services []string
	for _, s := range r.Services {
		services = append(services, fmt.Sprintf("%s %s %q %t %d", s.Service, s.State, s.Reason, s.Since != nil, s.Checks))
	}
	if want := []string{`evaluator degraded "HTTP 503" false 0`, `odd unknown "" false 0`, `odder unknown "a [31mb" false 0`, `ingest healthy "" true 120`}; !slices.Equal(services, want) {
		t.Errorf("services\n%s\nwant\n%s", strings.Join(services, "\n"), strings.Join(want, "\n"))
	}
	if s := r.Services[3]; *s.LatencyMS != 12 || r.Services[1].LatencyMS != nil {
		t.Errorf("latencies of %+v and %+v", s, r.Services[1])
	}
	if ends := r.Services[3].CertificateEnds; ends == nil || !ends.Equal(now.Add(25*time.Hour)) || r.Services[0].CertificateEnds != nil {
		t.Errorf("the certificate ends at %v", ends)
	}
	var shares []string
	for _, a := range r.Availability {
		shares = append(shares, fmt.Sprint(a.Service, " ", percent(a.Percent24h), " ", percent(a.Percent7d), " ", percent(a.Percent30d), " ", a.LastIncident != nil))
	}
	if want := []string{"evaluator ? ? ? true", "odd ? ? ? true", "odder ? ? ? false", "ingest 100% 100% ? true"}; !slices.Equal(shares, want) {
		t.Errorf("availability %q, want %q", shares, want)
	}
	if len(r.Alerts) != 2 || r.Alerts[0].Service != "odd" || r.Alerts[0].Status != "ACKNOWLEDGED" || r.Alerts[1].Service != "evaluator" {
		t.Errorf("alerts %+v", r.Alerts)
	}
	// Across its restart too the counter has grown by ten a second: a fall to 50 is a
	// growth of 50.
	written := seriesOf(t, r, "ingest", "messages_written")
	if written.Kind != "counter" || written.Old || !near(written.Value, 10) || !near(written.Change, 0) || points(written) < 3 {
		t.Errorf("messages_written %+v", written)
	}
	for _, v := range written.LastHour {
		if v != nil && !near(v, 10) {
			t.Errorf("three minutes of messages_written grew by %v a second", *v)
		}
	}
	depth := seriesOf(t, r, "ingest", "queue_depth")
	if depth.Kind != "gauge" || !near(depth.Value, 120) || depth.Change == nil || *depth.Change < 100 || points(depth) < 3 {
		t.Errorf("queue_depth %+v", depth)
	}
	if online := seriesOf(t, r, "platform", "devices_online"); !near(online.Value, 7) || !near(online.Change, 0) || online.LastHour[0] != nil || online.LastHour[18] == nil {
		t.Errorf("devices_online %+v", online)
	}
	if s := seriesOf(t, r, "", "orphans"); !near(s.Value, 3) {
		t.Errorf("orphans %+v", s)
	}
	// Older than the hour: the newest value of a gauge, and of a counter none.
	if s := seriesOf(t, r, "delivery", "jobs_pending"); !near(s.Value, 5) || !s.Old || s.Change != nil || points(s) != 0 {
		t.Errorf("jobs_pending %+v", s)
	}
	if s := seriesOf(t, r, "dispatcher", "routes_matched"); s.Value != nil || points(s) != 0 {
		t.Errorf("routes_matched %+v", s)
	}
	// Counted in the database, where there is no delivery service.
	if s := seriesOf(t, r, "delivery", "jobs_failed"); s.Kind != "gauge" || !near(s.Value, 7) {
		t.Errorf("jobs_failed %+v", s)
	}
	if i := slices.IndexFunc(r.Series, func(s Series) bool { return s.Metric == config.HealthSample }); i >= 0 {
		t.Error("the services' health stands among the metrics")
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	wantFull(t, newReader(t, database.URL).report(t))
}

func TestReadThroughPgBouncer(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	r := newReader(t, pgtest.NewPgBouncer(t, database.URL, "transaction", "default_pool_size = 1").URL)
	for range 3 {
		wantFull(t, r.report(t))
	}
}

// What a database or a role may set changes nothing.
func TestReadUnderHostileSettings(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	var alter strings.Builder // in one session, before any of them counts
	for _, setting := range []string{"datestyle = 'German, DMY'", "intervalstyle = sql_standard", "timezone = 'Asia/Kathmandu'", "default_transaction_isolation = serializable",
		"default_transaction_read_only = on", "extra_float_digits = -10"} {
		fmt.Fprintf(&alter, "ALTER DATABASE %s SET %s;", database.Name, setting)
	}
	database.Exec(t, alter.String())
	wantFull(t, newReader(t, database.URL).report(t))
}

// tables are what is read, and of which section.
var tables = map[Section]string{LeaderSection: "ops_worker_lease", ServicesSection: "service_health", SinceSection: "ops_worker_streak",
	AlertsSection: "fleet_alert", AvailabilitySection: "ops_worker_watch", SeriesSection: "system_metrics"}

// wantUnreadable fails the test unless the section alone cannot be read; without the
// alerts there is no availability either.
func wantUnreadable(t *testing.T, r Report, section Section, reason string) {
	t.Helper()
	want := map[Section]string{section: reason}
	if section == AlertsSection {
		want[AvailabilitySection] = reason
	}
	if !maps.Equal(r.Unreadable, want) {
		t.Errorf("unreadable %v, want %v", r.Unreadable, want)
	}
}

func TestARoleThatMayOnlyReadSeesEverything(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	role, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	for _, table := range tables {
		database.Exec(t, fmt.Sprintf("GRANT SELECT ON %s, ops_worker_series TO %s", table, role))
	}
	r := newReader(t, address)
	wantFull(t, r.report(t))
	for section, table := range tables {
		database.Exec(t, fmt.Sprintf("REVOKE SELECT ON %s FROM %s", table, role))
		report := r.report(t)
		wantUnreadable(t, report, section, fmt.Sprintf("%s may not read %s", role, table))
		if len(report.Notices) > 0 {
			t.Errorf("without %s: notices %v", table, report.Notices)
		}
		if got := [5]bool{report.Leader != nil, len(report.Services) == 4, len(report.Alerts) == 2, len(report.Series) > 4, len(report.Availability) > 2}; got !=
			[5]bool{section != LeaderSection, section != ServicesSection, section != AlertsSection, section != SeriesSection, section != AlertsSection && section != AvailabilitySection} {
			t.Errorf("without %s: %v", table, got)
		}
		printed(t, report, 80, true)
		database.Exec(t, fmt.Sprintf("GRANT SELECT ON %s, ops_worker_series TO %s", table, role))
	}
}

func TestATableThatIsMissingOrLockedCostsItsSectionAlone(t *testing.T) {
	t.Parallel()
	for section, table := range tables {
		for state, want := range map[string]string{"missing": "there is no table " + table, "locked": table + " is locked"} {
			t.Run(table+" "+state, func(t *testing.T) {
				t.Parallel()
				database := pgtest.New(t)
				database.Exec(t, platform)
				r := newReader(t, database.URL)
				if state == "locked" {
					r.timeout = 10 * time.Second // of which it waits a part
					tx, err := database.Pool(t).Begin(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					defer func() { _ = tx.Rollback(context.Background()) }()
					if _, err := tx.Exec(t.Context(), "LOCK "+table); err != nil {
						t.Fatal(err)
					}
				} else {
					database.Exec(t, "DROP TABLE "+table+" CASCADE")
				}
				wantUnreadable(t, r.report(t), section, want)
			})
		}
	}
}

func TestReadOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	if _, err := newReader(t, pgtest.NewEmpty(t).URL).Read(t.Context()); err == nil || !strings.Contains(err.Error(), "none of the worker's tables is there: 127.0.0.1:") {
		t.Errorf("error %v", err)
	}
	fresh := newReader(t, pgtest.New(t).URL).report(t)
	if len(fresh.Unreadable) > 0 || len(fresh.Notices) != 1 || fresh.Notices[0].Kind != "no_leader" {
		t.Errorf("unreadable %v, notices %v", fresh.Unreadable, fresh.Notices)
	}
}

// A role that policies bind sees no rows of a forced table: that must be said.
func TestRowSecurityHidesNothingSilently(t *testing.T) {
	t.Parallel()
	for section, table := range tables {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			database.Exec(t, platform)
			role, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
			for _, table := range tables {
				database.Exec(t, fmt.Sprintf("GRANT SELECT ON %s, ops_worker_series TO %s", table, role))
			}
			database.Exec(t, fmt.Sprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY; ALTER TABLE %[1]s FORCE ROW LEVEL SECURITY", table))
			r := newReader(t, address)
			wantUnreadable(t, r.report(t), section, fmt.Sprintf("row-level security would hide rows of %s from %s", table, role))
			if section != AlertsSection {
				return
			}
			// With the operator's role all of it is there; that needs no right to our own tables.
			database.Exec(t, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM pulse_operator; GRANT SELECT ON fleet_alert TO pulse_operator; GRANT pulse_operator TO "+role)
			wantFull(t, r.report(t))
			database.Exec(t, "REVOKE SELECT ON fleet_alert FROM pulse_operator")
			wantUnreadable(t, r.report(t), section, "pulse_operator may not read fleet_alert")
		})
	}
}

// However many samples there are, the hour is read through the index.
func TestTheSeriesAreReadThroughTheIndex(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT now() - make_interval(secs => 5 * i), 'metric_' || s, 'service', i FROM generate_series(1, 10000) i, generate_series(1, 15) s`)
	database.Exec(t, "ANALYZE system_metrics")
	text := strings.Join(pgtest.Plans(t, database.Pool(t), func(ctx context.Context, q *db.Queries) {
		_, _ = q.StatusSeries(ctx, db.StatusSeriesParams{BucketSeconds: bucket.Seconds(), Buckets: buckets})
	}), "\n")
	if strings.Contains(text, "Seq Scan on system_metrics") || !strings.Contains(text, "Index Scan") {
		t.Errorf("the plan is\n%s", text)
	}
}

// What cannot be reached is told in one line, without the password.
func TestADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	r := newReader(t, "postgres://iot:hunter2@127.0.0.1:1/iotcloud")
	_, err := r.Read(t.Context())
	if err == nil || err.Error() != "connection refused: 127.0.0.1:1/iotcloud as iot" {
		t.Errorf("error %v", err)
	}

	// One that accepts, and says nothing.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	silent := newReader(t, "postgres://iot:hunter2@"+listener.Addr().String()+"/iotcloud?sslmode=disable")
	silent.timeout = 100 * time.Millisecond
	if _, err = silent.Read(t.Context()); err == nil || err.Error() != "no answer within 100ms: "+listener.Addr().String()+"/iotcloud as iot" {
		t.Errorf("error %v", err)
	}
}

func TestAWrongPasswordIsTold(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	role, address := database.Role(t, "")
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "hunter2")
	r := newReader(t, u.String())
	if err := r.pool.Ping(t.Context()); err == nil || ofItsSection(err) {
		t.Errorf("error %v, of a section: %t", err, ofItsSection(err))
	}
	if _, err := r.Read(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), role) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}

// What cannot be read of a row is no fault of the connection.
func TestAValueThatIsNoneCostsItsSectionAlone(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	database.Exec(t, "UPDATE ops_worker_lease SET last_cycle_at = 'infinity'")
	report := newReader(t, database.URL).report(t)
	if len(report.Unreadable) != 1 || report.Unreadable[LeaderSection] == "" || report.Leader != nil {
		t.Errorf("unreadable %v, leader %+v", report.Unreadable, report.Leader)
	}
}

// An open connection that has died, as after a failover, costs no reading.
func TestReadAfterEveryConnectionDied(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	r := newReader(t, database.URL)
	wantFull(t, r.report(t))
	database.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE '%_status'")
	wantFull(t, r.report(t))
}

func TestState(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		state, status string
		want          probe.Status
	}{{"down", "unhealthy", probe.Down}, {"", "healthy", probe.Healthy}, {"", "unhealthy", probe.Unknown}, {"rebooting", "unhealthy", probe.Unknown}} {
		if got := state(db.StatusServicesRow{State: test.state, Status: test.status}); got != test.want {
			t.Errorf("state of %q and %q = %s, want %s", test.state, test.status, got, test.want)
		}
	}
}

package collectors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/lease"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// onDatabase is a store on a database of the test's own, as its superuser.
func onDatabase(t *testing.T) (*pgtest.Database, *pgxpool.Pool, *Postgres) {
	t.Helper()
	database := pgtest.New(t)
	pool := database.Pool(t)
	return database, pool, storeOn(pool, 5*time.Second)
}

// storeOn is a store whose statements the server gives up after limit.
func storeOn(pool *pgxpool.Pool, limit time.Duration) *Postgres {
	client := db.NewClient(pool, limit)
	return NewPostgres(client, client, time.Minute)
}

func acquire(t *testing.T, store *Postgres, holder string) lease.Token {
	t.Helper()
	grant, err := lease.NewPostgres(store.client, 0).Acquire(t.Context(), holder, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return lease.Token{Holder: holder, Epoch: grant.Epoch}
}

// yieldWithout are the metrics of all aggregates but these, sorted, on a
// database where all is well.
func yieldWithout(t *testing.T, pool *pgxpool.Pool, names ...string) []string {
	t.Helper()
	var metrics []string
	list := slices.DeleteFunc(slices.Clone(Aggregates), func(a db.Aggregate) bool { return slices.Contains(names, a.Name) })
	err := db.ReadAggregates(t.Context(), db.New(pool), list, func(_ db.Aggregate, samples []db.Sample, _ time.Duration) {
		for _, s := range samples {
			metrics = append(metrics, s.MetricName)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(metrics)
	return metrics
}

// metricsOf are the metrics of samples, sorted.
func metricsOf(samples []spool.Sample) []string {
	var metrics []string
	for _, s := range samples {
		metrics = append(metrics, s.Metric)
	}
	slices.Sort(metrics)
	return metrics
}

// The number of connections is /capacity's own.
func TestConnectionsAreCountedAsTheCapacityRouteDoes(t *testing.T) {
	t.Parallel()
	_, pool, _ := onDatabase(t)
	pgtest.WantRows(t, pool, `SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) - numbackends
		FROM pg_stat_database WHERE datname = current_database()`, "0")
}

func TestAMissingTableOrColumnCostsItsOwnSamplesUntilItIsThere(t *testing.T) {
	t.Parallel()
	database, _, store := onDatabase(t)
	well := pgtest.New(t).Pool(t)
	check := func(failed ...string) {
		t.Helper()
		a := store.Aggregates(t.Context(), Aggregates)
		if diff := gocmp.Diff(yieldWithout(t, well, failed...), metricsOf(a.samples())); diff != "" || !a.Answered {
			t.Errorf("answered %v, %s", a.Answered, diff)
		}
		for _, name := range failed {
			if err := a.Of[name].Err; err == nil || !strings.Contains(err.Error(), "does not exist") {
				t.Errorf("%s: the error names neither table nor column: %v", name, err)
			}
		}
		if len(a.failed()) != len(failed) {
			t.Errorf("failed: %v, want %v", a.failed(), failed)
		}
	}
	check()
	database.Exec(t, "ALTER TABLE device_state RENAME TO gone")
	check("devices", "devices offline")
	database.Exec(t, "ALTER TABLE gone RENAME TO device_state")
	check()
	database.Exec(t, "ALTER TABLE fleet_alert RENAME COLUMN status TO state")
	check("alerts", "alert totals")
	database.Exec(t, "ALTER TABLE fleet_alert RENAME COLUMN state TO status; ALTER TABLE device_state RENAME TO gone; ALTER TABLE delivery_jobs RENAME TO gone_too")
	check("devices", "devices offline", "deliveries", "delivery totals")
}

func TestATableThatIsLockedCostsItsOwnSamples(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	others := yieldWithout(t, pool, "alerts", "alert totals", "deliveries", "delivery totals")
	migration, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer migration.Rollback(context.WithoutCancel(t.Context()))
	if _, err := migration.Exec(t.Context(), "LOCK TABLE fleet_alert, delivery_jobs IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	a := store.Aggregates(ctx, Aggregates)
	if diff := gocmp.Diff(others, metricsOf(a.samples())); len(a.failed()) != 4 || a.Of["alerts"].Err == nil || a.Of["delivery totals"].Err == nil || diff != "" {
		t.Errorf("failed: %v, %s", a.failed(), diff)
	}
}

func forceRowSecurity(t *testing.T, database *pgtest.Database) {
	t.Helper()
	for _, table := range []string{"device_state", "fleet_alert"} {
		database.Exec(t, fmt.Sprintf(`ALTER TABLE %[1]s ENABLE ROW LEVEL SECURITY; ALTER TABLE %[1]s FORCE ROW LEVEL SECURITY;
			CREATE POLICY tenant ON %[1]s USING (tenant_id = current_setting('app.tenant_id', true))`, table))
	}
}

// loginRole is a role as the platform's own: no superuser, allowed to read and
// write what the worker does.
func loginRole(t *testing.T, database *pgtest.Database, options string) (*Postgres, *pgxpool.Pool) {
	t.Helper()
	name, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS "+options)
	database.Exec(t, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "+name)
	database.Exec(t, "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "+name)
	pool := database.PoolAs(t, address)
	return storeOn(pool, 5*time.Second), pool
}

func TestForcedRowSecurityIsReadPastInTheOperatorsRole(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, contracttest.Seed)
	forceRowSecurity(t, database)
	store, pool := loginRole(t, database, "IN ROLE pulse_operator")
	a := store.Aggregates(t.Context(), Aggregates)
	if len(a.failed()) != 0 {
		t.Fatalf("%+v", a.failed())
	}
	if i := slices.IndexFunc(a.samples(), func(s spool.Sample) bool { return s.Metric == "devices_online" }); i < 0 || a.samples()[i].Value != 5 {
		t.Errorf("samples: %v", a.samples())
	}
	// The role does not stay with the connection.
	pgtest.WantRows(t, pool, "SELECT current_user = session_user, current_setting('row_security')", "true on")
}

func TestForcedRowSecurityIsNeverASilentZero(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, contracttest.Seed)
	forceRowSecurity(t, database)
	store, _ := loginRole(t, database, "")
	a := store.Aggregates(t.Context(), Aggregates)
	if !a.Answered {
		t.Fatalf("%+v", a)
	}
	for name, table := range map[string]string{"devices": "device_state", "alerts": "fleet_alert", "alert totals": "fleet_alert"} {
		err := a.Of[name].Err
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, part := range []string{"row-level security", table, "GRANT pulse_operator TO"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in %v", name, part, err)
			}
		}
	}
	// The others are under no policy.
	if diff := gocmp.Diff(yieldWithout(t, database.Pool(t), "alerts", "alert totals", "devices", "devices offline"), metricsOf(a.samples())); diff != "" {
		t.Error(diff)
	}
}

func TestTheReadersRoleIsTakenWhereTheOperatorsIsNot(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	// Roles are the server's, so this one is shared with the other tests.
	database.Exec(t, `DO $$ BEGIN CREATE ROLE pulse_operator_read NOLOGIN BYPASSRLS; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`)
	database.Exec(t, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO pulse_operator_read")
	t.Cleanup(func() {
		_, err := database.Pool(t).Exec(context.Background(), "DROP OWNED BY pulse_operator_read")
		if err != nil {
			t.Error(err)
		}
	})
	database.Exec(t, contracttest.Seed)
	forceRowSecurity(t, database)
	store, _ := loginRole(t, database, "IN ROLE pulse_operator_read")
	if a := store.Aggregates(t.Context(), Aggregates); len(a.failed()) != 0 {
		t.Errorf("%+v", a)
	}
}

// What the role is that the platform's tables are read and written in.
func TestThePlatformRole(t *testing.T) {
	t.Parallel()
	roleOf := func(t *testing.T, pool *pgxpool.Pool) (role string) {
		t.Helper()
		err := db.InTx(t.Context(), pool, pgx.TxOptions{}, db.Limits{Statement: 5 * time.Second, Lock: 5 * time.Second}, func(q *db.Queries) (err error) {
			if role, err = q.EnterPlatformScope(t.Context()); err != nil {
				return err
			}
			session, err := q.DescribeSession(t.Context())
			if session.LoginRole != role {
				t.Errorf("%q is returned, and %q taken on", role, session.LoginRole)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return role
	}
	for name, test := range map[string]struct {
		options string
		bound   bool   // by forced policies
		prepare string // %s is the login role
		want    string // empty is the login role itself
	}{
		"a superuser":                    {options: "SUPERUSER IN ROLE pulse_operator", bound: true},
		"one that bypasses the policies": {options: "BYPASSRLS IN ROLE pulse_operator", bound: true},
		"one that no policy binds":       {options: "IN ROLE pulse_operator"},
		"one that a policy binds":        {options: "IN ROLE pulse_operator", bound: true, want: "pulse_operator"},
		"one that may take on nothing":   {bound: true},
		"one whose role is set": {bound: true, want: "pulse_operator",
			prepare: "GRANT pulse_operator TO pgtest_owner; GRANT pgtest_owner TO %[1]s; ALTER ROLE %[1]s SET role = pgtest_owner"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			if test.bound {
				forceRowSecurity(t, database)
			}
			role, address := database.Role(t, test.options)
			if test.prepare != "" {
				database.Exec(t, `DO $$ BEGIN CREATE ROLE pgtest_owner NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$`)
				database.Exec(t, fmt.Sprintf(test.prepare, role))
			}
			if want := cmp.Or(test.want, role); roleOf(t, database.PoolAs(t, address)) != want {
				t.Errorf("role %q, want %q", roleOf(t, database.PoolAs(t, address)), want)
			}
		})
	}
}

// saveHealth saves a check that is the first of its kind.
func saveHealth(ctx context.Context, store *Postgres, token lease.Token, at time.Time, observations []probe.Observation) error {
	return store.SaveHealth(ctx, token, at, observations, newJudge(config.Config{HealthInterval: time.Minute}, record{}).count(at, observations))
}

// syncAlerts brings the alerts in line with a check.
func syncAlerts(ctx context.Context, store *Postgres, token lease.Token, observations []probe.Observation) (opened, closed []string, err error) {
	judge := newJudge(config.Config{AlertAfterFailures: 1, AlertAfterSuccesses: 1, HealthInterval: time.Minute}, record{})
	at := time.Now()
	judge.count(at, observations)
	open, _, err := store.OpenAlerts(ctx, token, false)
	judge.refresh(open)
	judge.decide(at, observations)
	for _, over := range judge.over() {
		done, failed := store.CloseAlert(ctx, token, over, false)
		if err = errors.Join(err, failed); done {
			closed = append(closed, over.Service)
		}
	}
	for _, i := range judge.standing(at, observations) {
		done, failed := store.OpenAlert(ctx, token, i)
		if err = errors.Join(err, wrap(failed, i.Service)); done {
			opened = append(opened, i.Service)
		}
	}
	return opened, closed, err
}

func observation(service string, r probe.Reading) probe.Observation {
	return probe.Observation{Service: service, Reading: r}
}

func TestHealthRowsAreTheContracts(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	save := func(observations ...probe.Observation) {
		t.Helper()
		if err := saveHealth(t.Context(), store, token, at, observations); err != nil {
			t.Fatal(err)
		}
	}
	save(
		observation("ingest", probe.Reading{Status: probe.Healthy, Latency: 12 * time.Millisecond, HTTPStatus: 200, Counters: map[string]float64{"queue_depth": 3}}),
		observation("evaluator", probe.Reading{Status: probe.Degraded, Latency: 3 * time.Millisecond, HTTPStatus: 503}),
		observation("mqtt", probe.Reading{Status: probe.Down, Err: "connection refused"}),
		observation("billing", probe.Reading{Status: probe.Unknown, Err: "no answer within 5s"}),
	)
	const all = "SELECT service, status, latency_ms, details::text, checked_at = '2026-01-02 03:04:05.678901Z' FROM service_health ORDER BY service"
	pgtest.WantRows(t, pool, all,
		`billing unhealthy - {"error": "no answer within 5s", "status": "unknown"} true`,
		`evaluator unhealthy 3 {"status": "degraded", "latency_ms": 3, "http_status": 503} true`,
		`ingest healthy 12 {"status": "healthy", "counters": {"queue_depth": 3}, "latency_ms": 12, "http_status": 200} true`,
		`mqtt unhealthy - {"error": "connection refused", "status": "down"} true`)
	save(observation("mqtt", probe.Reading{Status: probe.Healthy, Latency: time.Microsecond}))
	pgtest.WantRows(t, pool, "SELECT status, latency_ms, details::text FROM service_health WHERE service = 'mqtt'", `healthy 0 {"status": "healthy", "latency_ms": 0}`)
}

// A streak goes on whoever checks.
func TestChecksAreCountedAcrossReplicas(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	held := leasetest.Held(t, lease.NewPostgres(store.client, 0), time.Minute)
	reading := probe.Reading{Status: probe.Down}
	replica := func() *healthMonitor {
		return monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"ingest": func(context.Context) probe.Reading { return reading }}), store, held, time.Minute, alertsAfter{})
	}
	a := replica()
	check := func(m *healthMonitor, status probe.Status, want ...string) {
		t.Helper()
		reading.Status = status
		if err := m.cycle(t.Context()); err != nil {
			t.Error(err)
		}
		pgtest.WantRows(t, pool, "SELECT healthy, checks, since = checked_at FROM ops_worker_streak", want...)
	}
	check(a, probe.Down, "false 1 true")
	check(a, probe.Unknown, "false 2 false")
	b := replica()
	check(b, probe.Degraded, "false 3 false")
	check(b, probe.Healthy, "true 1 true")
	if _, err := held.TryAcquire(t.Context()); err != nil { // another term of a, which has seen an earlier streak
		t.Fatal(err)
	}
	check(a, probe.Healthy, "true 2 false")

	database.Exec(t, "UPDATE ops_worker_streak SET checked_at = checked_at - interval '25 hours'") // nobody has checked for a day
	check(replica(), probe.Healthy, "true 1 true")

	database.Exec(t, "ALTER TABLE service_health ADD CONSTRAINT never CHECK (status = 'never') NOT VALID")
	c := replica()
	if err := c.cycle(t.Context()); err == nil {
		t.Error("rows that are refused are no error")
	}
	pgtest.WantRows(t, pool, "SELECT checks FROM ops_worker_streak", "2")
	database.Exec(t, "ALTER TABLE service_health DROP CONSTRAINT never; DROP TABLE ops_worker_streak")
	if err := c.cycle(t.Context()); err == nil {
		t.Error("a table that is missing is no error")
	}
	pgtest.WantRows(t, pool, "SELECT h.checked_at > l.acquired_at FROM service_health h, ops_worker_lease l", "true")
}

func TestSystemAlertsOpenAreAcknowledgedAndClose(t *testing.T) {
	t.Parallel()
	for name, index := range map[string]string{
		"older index": "status = 'OPEN'",
		"newer index": "status IN ('OPEN', 'ACKNOWLEDGED')",
		"no index":    "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, pool, store := onDatabase(t)
			database.Exec(t, "DROP INDEX idx_fleet_alert_open_uq")
			if index != "" {
				database.Exec(t, "CREATE UNIQUE INDEX idx_fleet_alert_open_uq ON fleet_alert (tenant_id, fingerprint) WHERE "+index)
			}
			database.Exec(t, "ALTER TABLE fleet_alert ADD FOREIGN KEY (tenant_id) REFERENCES tenants")
			token := acquire(t, store, "a")
			sync := func(status probe.Status, wantOpened, wantClosed int) {
				t.Helper()
				opened, closed, err := syncAlerts(t.Context(), store, token, []probe.Observation{
					observation("ingest", probe.Reading{Status: status, Err: "reason"}), observation("mqtt", probe.Reading{Status: probe.Healthy})})
				if err != nil || len(opened) != wantOpened || len(closed) != wantClosed {
					t.Errorf("%s: opened %v, closed %v, %v", status, opened, closed, err)
				}
			}
			const alerts = "SELECT status, closed_at IS NOT NULL, details ? 'resolved_at' FROM fleet_alert ORDER BY id"
			sync(probe.Healthy, 0, 0)
			pgtest.WantRows(t, pool, "SELECT tenant_id FROM tenants")
			sync(probe.Unknown, 1, 0)
			pgtest.WantRows(t, pool, `SELECT tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, confidence, summary,
				details - 'since' = '{"kind": "system_health", "service": "ingest", "reason": "reason", "status": "unknown"}' FROM fleet_alert`,
				`__system__ __system__ __system__ SYSTEM_HEALTH system-health:ingest OPEN 5 1 Service unhealthy: ingest (reason) true`)
			pgtest.WantRows(t, pool, "SELECT tenant_id, name, metadata::text FROM tenants", `__system__ System Alerts {"kind": "system"}`)
			sync(probe.Unknown, 0, 0)
			database.Exec(t, "UPDATE fleet_alert SET status = 'ACKNOWLEDGED'")
			sync(probe.Down, 0, 0)
			pgtest.WantRows(t, pool, alerts, "ACKNOWLEDGED false false")
			sync(probe.Healthy, 0, 1)
			pgtest.WantRows(t, pool, alerts, "CLOSED true true")
			sync(probe.Healthy, 0, 0)
			sync(probe.Down, 1, 0)
			sync(probe.Healthy, 0, 1)
			pgtest.WantRows(t, pool, alerts, "CLOSED true true", "CLOSED true true")
		})
	}
}

// An alert of the platform's own monitor, which had another name for the service,
// is closed when the service is healthy, and not before.
func TestAnAlertOfAFormerNameIsClosed(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"OPEN", "ACKNOWLEDGED"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			database, pool, _ := onDatabase(t)
			var healthy atomic.Bool
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if !healthy.Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				_, _ = w.Write([]byte(`{"status": "healthy", "counters": {}}`))
			}))
			defer server.Close()
			database.Exec(t, `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
				SELECT '__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:' || service, '`+status+`', 's'
				FROM unnest('{delivery_worker,gone}'::text[]) service`)
			cfg := workerConfig(t, database.URL, "INGEST_HEALTH_URL="+server.URL, "EVALUATOR_HEALTH_URL="+server.URL, "DELIVERY_HEALTH_URL="+server.URL)
			for _, want := range []string{"delivery_worker gone", "gone"} {
				worker := NewWorker(Options{Config: cfg, Pool: pool, Buffer: spool.NewMemory(10), Log: zerolog.Nop()})
				if _, leader, err := worker.OnceHealth(t.Context(), false); err != nil || leader != "" {
					t.Fatalf("leader %q, %v", leader, err)
				}
				pgtest.WantRows(t, pool, `SELECT string_agg(substr(fingerprint, 15), ' ' ORDER BY fingerprint) FROM fleet_alert
					WHERE status = '`+status+`' AND summary = 's'`, want)
				healthy.Store(true)
			}
			pgtest.WantRows(t, pool, "SELECT count(*) FROM fleet_alert WHERE status <> 'CLOSED'", "1")
		})
	}
}

func TestSystemAlertsUnderForcedRowSecurity(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	forceRowSecurity(t, database)
	down := []probe.Observation{observation("ingest", probe.Reading{Status: probe.Down})}

	store, _ := loginRole(t, database, "")
	if _, _, err := syncAlerts(t.Context(), store, acquire(t, store, "a"), down); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("a role that the policies bind: %v", err)
	}
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = now()")

	// Half of the rights will not do.
	database.Exec(t, "GRANT INSERT, UPDATE ON fleet_alert, tenants TO pulse_operator")
	half, _ := loginRole(t, database, "IN ROLE pulse_operator")
	if _, _, err := syncAlerts(t.Context(), half, acquire(t, half, "half"), down); err == nil || !strings.Contains(err.Error(), "42501") {
		t.Errorf("a role that may take on half an operator's: %v", err)
	}
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = now()")
	database.Exec(t, "GRANT SELECT, INSERT, UPDATE ON fleet_alert, tenants TO pulse_operator; GRANT USAGE ON SEQUENCE fleet_alert_id_seq TO pulse_operator")
	store, _ = loginRole(t, database, "IN ROLE pulse_operator")
	if opened, _, err := syncAlerts(t.Context(), store, acquire(t, store, "b"), down); err != nil || len(opened) != 1 {
		t.Errorf("a role that may take on the operator's: %v, %v", opened, err)
	}
}

func cycleAt(at time.Time, values ...float64) spool.Cycle {
	c := spool.Cycle{At: at}
	for i, v := range values {
		c.Samples = append(c.Samples, sampleOf("ingest", fmt.Sprintf("metric_%d", i), v))
	}
	return c
}

func TestAppendingTwiceStoresOnce(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	begin := time.Now().UTC().Truncate(time.Microsecond)
	cycles := []spool.Cycle{cycleAt(begin, 1, 2), cycleAt(begin.Add(time.Second), 3, 4), cycleAt(begin.Add(2*time.Second), 5, 6)}
	for i, want := range []int{4, 2, 0} { // of 1–2, of 1–3, of 1–3 again
		if stored, _, err := store.AppendCycles(t.Context(), token, cycles[:min(2+i, 3)], false); err != nil || stored != want {
			t.Errorf("append %d stored %d samples, want %d: %v", i, stored, want, err)
		}
	}
	pgtest.WantRows(t, pool, "SELECT metric_name, service, tags::text, value FROM system_metrics ORDER BY value",
		"metric_0 ingest {} 1", "metric_1 ingest {} 2", "metric_0 ingest {} 3", "metric_1 ingest {} 4", "metric_0 ingest {} 5", "metric_1 ingest {} 6")
	pgtest.WantRows(t, pool, "SELECT max(time) = (SELECT last_cycle_at FROM ops_worker_lease) FROM system_metrics", "true")
}

func TestAppendingAtTheSameTimeStoresOnce(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	begin := time.Now().UTC()
	for round := range 20 {
		cycle := cycleAt(begin.Add(time.Duration(round)*time.Second), 1, 2, 3)
		var total int
		var mu sync.Mutex
		var storing sync.WaitGroup
		for range 4 {
			storing.Go(func() {
				n, _, err := store.AppendCycles(t.Context(), token, []spool.Cycle{cycle}, false)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				total += n
			})
		}
		storing.Wait()
		if total != 3 {
			t.Fatalf("round %d stored %d samples, want 3", round, total)
		}
	}
	pgtest.WantRows(t, pool, "SELECT count(*), count(DISTINCT (time, metric_name)) FROM system_metrics", "60 60")
}

func TestAWriteWithoutTheLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	old := acquire(t, store, "a")
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = clock_timestamp()")
	writes := map[string]func(lease.Token) error{
		"append": func(token lease.Token) error {
			_, _, err := store.AppendCycles(t.Context(), token, []spool.Cycle{cycleAt(time.Now(), 1)}, false)
			return err
		},
		"health": func(token lease.Token) error {
			err := saveHealth(t.Context(), store, token, time.Now(), []probe.Observation{observation("x", probe.Reading{Status: probe.Down})})
			return err
		},
		"alerts": func(token lease.Token) error {
			_, _, err := syncAlerts(t.Context(), store, token, []probe.Observation{observation("x", probe.Reading{Status: probe.Down})})
			return err
		},
		"expire": func(token lease.Token) error {
			_, _, err := store.ExpireSamples(t.Context(), token, time.Now().Add(time.Hour), 10)
			return err
		},
		"renew": func(token lease.Token) error {
			_, err := lease.NewPostgres(store.client, 0).Renew(t.Context(), token, time.Minute)
			return err
		},
	}
	refused := func(who string, token lease.Token) {
		t.Helper()
		for name, write := range writes {
			if err := write(token); !errors.Is(err, lease.ErrLost) {
				t.Errorf("%s, %s: %v", who, name, err)
			}
		}
	}
	refused("expired", old)
	acquire(t, store, "b")
	refused("taken over", old)
	refused("wrong epoch", lease.Token{Holder: "b", Epoch: 99})
	pgtest.WantRows(t, pool, "SELECT (SELECT count(*) FROM system_metrics) + (SELECT count(*) FROM service_health) + (SELECT count(*) FROM ops_worker_streak) + (SELECT count(*) FROM fleet_alert)", "0")
}

func TestTheServerItselfEndsAStatementThatTakesTooLong(t *testing.T) {
	t.Parallel()
	_, pool, patient := onDatabase(t)
	store := storeOn(pool, 200*time.Millisecond)
	token := acquire(t, patient, "a")
	blocker, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Rollback(context.WithoutCancel(t.Context()))
	if _, err := blocker.Exec(t.Context(), "LOCK TABLE service_health IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	err = saveHealth(t.Context(), store, token, time.Now(), []probe.Observation{observation("x", probe.Reading{Status: probe.Down})})
	if !db.IsTimeout(err) {
		t.Errorf("%v, want the server's own time-out", err)
	}
}

// A migration of the platform may lock fleet_alert for as long as it likes: the
// alerts wait, and nothing else does.
func TestAlertsThatWaitDoNotKeepSamplesOrTheLease(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	migration, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migration.Exec(t.Context(), "LOCK TABLE fleet_alert IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	alerts := make(chan error, 1)
	go func() {
		_, _, err := syncAlerts(t.Context(), store, token, []probe.Observation{observation("x", probe.Reading{Status: probe.Down})})
		alerts <- err
	}()
	pgtest.Eventually(t, "the alerts wait for their table", func() bool {
		return slices.Equal(pgtest.Rows(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"), []string{"1"})
	})
	if stored, _, err := store.AppendCycles(t.Context(), token, []spool.Cycle{cycleAt(time.Now(), 1)}, false); err != nil || stored != 1 {
		t.Errorf("append meanwhile: %d, %v", stored, err)
	}
	if err := saveHealth(t.Context(), store, token, time.Now(), []probe.Observation{observation("x", probe.Reading{Status: probe.Down})}); err != nil {
		t.Errorf("health meanwhile: %v", err)
	}
	if _, err := lease.NewPostgres(store.client, 0).Renew(t.Context(), token, time.Minute); err != nil {
		t.Errorf("renewal meanwhile: %v", err)
	}
	if err := migration.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-alerts; err != nil {
		t.Errorf("alerts: %v", err)
	}
}

func TestExpiredSamplesAreRemovedFromAPlainTable(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT now() - make_interval(hours => h), 'm' || m, s, h FROM generate_series(0, 240) h, generate_series(1, 12) m, unnest(ARRAY['a', 'b', NULL]) s`)
	token := acquire(t, store, "a")
	var removed int64
	for more := true; more; {
		n, again, err := store.ExpireSamples(t.Context(), token, time.Now().Add(-7*24*time.Hour+time.Minute), 500)
		if err != nil {
			t.Fatal(err)
		}
		if removed, more = removed+n, again; n > 500+36 {
			t.Errorf("a batch of 500 removed %d", n)
		}
	}
	if want := int64(73 * 36); removed != want {
		t.Errorf("removed %d, want %d", removed, want)
	}
	pgtest.WantRows(t, pool, "SELECT count(*), max(value) FROM system_metrics", "6048 167")
	// By its index, however large the table is.
	database.Exec(t, "ANALYZE system_metrics; SET enable_seqscan = off")
	plan := strings.Join(pgtest.Plans(t, pool, func(ctx context.Context, q *db.Queries) {
		_, _ = q.DeleteExpiredSamples(ctx, db.DeleteExpiredSamplesParams{Cutoff: time.Now(), BatchSize: largestBatch})
	}), "\n")
	if !strings.Contains(plan, "idx_system_metrics_name_") {
		t.Errorf("plan: %s", plan)
	}
}

// The plans of the aggregates on a platform that has been in use for a while:
// closed alerts must cost nothing.
func TestOpenAlertsAreCountedByTheirIndex(t *testing.T) {
	t.Parallel()
	for name, index := range map[string]string{"older": "status = 'OPEN'", "newer": "status IN ('OPEN', 'ACKNOWLEDGED')"} {
		database, pool, _ := onDatabase(t)
		database.Exec(t, "DROP INDEX idx_fleet_alert_open_uq; CREATE UNIQUE INDEX idx_fleet_alert_open_uq ON fleet_alert (tenant_id, fingerprint) WHERE "+index)
		database.Exec(t, `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
			SELECT 't', 's', 'd', 'X', i::text, CASE WHEN i % 200 = 0 THEN 'OPEN' ELSE 'CLOSED' END, 'x' FROM generate_series(1, 20000) i`)
		database.Exec(t, "VACUUM ANALYZE fleet_alert")
		plan := strings.Join(pgtest.Plans(t, pool, func(ctx context.Context, q *db.Queries) { _, _ = q.AlertSamples(ctx) }), "\n")
		// PostgreSQL 18 may skip through the index on tenant and status instead.
		byIndex := strings.Contains(plan, "idx_fleet_alert_open_uq") || strings.Contains(plan, "Index Cond: (status = 'OPEN'::text)")
		if !byIndex || strings.Contains(plan, "Seq Scan") {
			t.Errorf("%s index: %s", name, plan)
		}
	}
}

// A last_cycle_at that a clock far ahead has left counts for nothing, and is
// right again with the next store.
func TestAFutureCycleDoesNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	database.Exec(t, "UPDATE ops_worker_lease SET last_cycle_at = now() + interval '400 days'")
	begin := time.Now().UTC().Truncate(time.Microsecond)
	for i := range 2 {
		at := begin.Add(time.Duration(i) * time.Second)
		if stored, _, err := store.AppendCycles(t.Context(), token, []spool.Cycle{cycleAt(at, 1)}, false); err != nil || stored != 1 {
			t.Errorf("stored %d, %v", stored, err)
		}
		pgtest.WantRows(t, pool, fmt.Sprintf("SELECT last_cycle_at = to_timestamp(%d / 1e6) FROM ops_worker_lease", at.UnixMicro()), "true")
	}
	if stored, _, err := store.AppendCycles(t.Context(), token, []spool.Cycle{cycleAt(begin, 1)}, false); err != nil || stored != 0 {
		t.Errorf("stored %d again, %v", stored, err)
	}
}

// Whatever text a sample is made of: what is storable, the table takes.
func TestWhatIsStorableIsStored(t *testing.T) {
	t.Parallel()
	_, _, store := onDatabase(t)
	token := acquire(t, store, "a")
	texts := []string{"plain", "", "quote ' \" \\", "é €  ", "nul \x00", "bad \xff", strings.Repeat("long ", 5000), "new\nline", "\ufffe", "\U0010ffff"}
	tags := []string{"{}", `{"a":1}`, `{"a":1e400}`, `{"a":"\u0000"}`, `{"a":"\ud800"}`, "[]", "null", "", "{", `{"a":1}x`, `{"é":{"b":[1.5,true,null]}}`, `{"a":1,"a":2}`, "{\"a\":\"\x00\"}"}
	values := []float64{0, -1, 1e308, 5e-324, math.NaN(), math.Inf(1)}
	at := time.Now().UTC().Truncate(time.Microsecond)
	storable := 0
	for _, text := range texts {
		for _, tag := range tags {
			for _, value := range values {
				s := spool.Sample{Metric: text, Service: text, Tags: tag, Value: value}
				if s.Storable() != nil {
					continue
				}
				storable++
				at = at.Add(time.Microsecond)
				if stored, _, err := store.AppendCycles(t.Context(), token, []spool.Cycle{{At: at, Samples: []spool.Sample{s}}}, false); err != nil || stored != 1 {
					t.Errorf("%+v: stored %d, %v", s, stored, err)
				}
			}
		}
	}
	if storable < 50 {
		t.Errorf("only %d are storable", storable)
	}
}

func TestOneAlertThatCannotBeOpenedCostsNoOther(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	sync := func(observations ...probe.Observation) error {
		_, _, err := syncAlerts(t.Context(), store, token, observations)
		return err
	}
	up, down := probe.Reading{Status: probe.Healthy}, probe.Reading{Status: probe.Down}
	if err := sync(observation("ingest", down)); err != nil {
		t.Fatal(err)
	}
	database.Exec(t, "ALTER TABLE fleet_alert ADD CHECK (fingerprint <> 'system-health:mqtt')")
	err := sync(observation("ingest", up), observation("mqtt", down), observation("evaluator", down))
	if err == nil || !strings.Contains(err.Error(), "mqtt") || strings.Contains(err.Error(), "evaluator:") {
		t.Errorf("the error should name mqtt alone: %v", err)
	}
	pgtest.WantRows(t, pool, "SELECT fingerprint, status FROM fleet_alert ORDER BY 1", "system-health:evaluator OPEN", "system-health:ingest CLOSED")
	// Nor does closing depend on opening.
	database.Exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON fleet_alert FOR EACH ROW EXECUTE FUNCTION refuse()`)
	if err := sync(observation("evaluator", up), observation("ingest", down)); err == nil {
		t.Error("no error")
	}
	pgtest.WantRows(t, pool, "SELECT DISTINCT status FROM fleet_alert", "CLOSED")
}

// An alert that is acknowledged in between closes after as many successes too, and
// a replica that takes over goes on counting.
func TestAlertsOpenAndCloseAfterSoManyChecks(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	held := leasetest.Held(t, lease.NewPostgres(store.client, 0), time.Minute)
	reading := probe.Reading{Status: probe.Down}
	newMonitor := func() *healthMonitor {
		return monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"ingest": func(context.Context) probe.Reading { return reading }}),
			store, held, time.Minute, alertsAfter{3, 2})
	}
	monitor := newMonitor()
	check := func(want ...string) {
		t.Helper()
		if err := monitor.cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		pgtest.WantRows(t, pool, "SELECT status FROM fleet_alert ORDER BY id", want...)
	}
	check()
	check()
	monitor = newMonitor() // another process, which has seen nothing
	check("OPEN")
	check("OPEN")
	database.Exec(t, "UPDATE fleet_alert SET status = 'ACKNOWLEDGED'")
	reading = probe.Reading{Status: probe.Healthy}
	check("ACKNOWLEDGED")
	reading = probe.Reading{Status: probe.Unknown}
	check("ACKNOWLEDGED")
	reading = probe.Reading{Status: probe.Healthy}
	check("ACKNOWLEDGED")
	monitor = newMonitor()
	check("CLOSED")
	reading = probe.Reading{Status: probe.Degraded}
	check("CLOSED")
	check("CLOSED")
	check("CLOSED", "OPEN")
}

func TestHealthRowsAndAlertsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	held := leasetest.Held(t, lease.NewPostgres(store.client, 0), time.Minute)
	monitor := monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"ingest": answering(probe.Reading{Status: probe.Down})}), store, held, time.Minute, alertAtOnce)
	database.Exec(t, "ALTER TABLE service_health ADD CHECK (status <> 'unhealthy')")
	if err := monitor.cycle(t.Context()); err == nil || !strings.Contains(err.Error(), "health rows are not saved") {
		t.Errorf("%v", err)
	}
	pgtest.WantRows(t, pool, "SELECT fingerprint, status FROM fleet_alert", "system-health:ingest OPEN")
	database.Exec(t, "ALTER TABLE service_health DROP CONSTRAINT service_health_status_check; DROP TABLE fleet_alert")
	if err := monitor.cycle(t.Context()); err == nil || !strings.Contains(err.Error(), "system alerts are not saved") {
		t.Errorf("%v", err)
	}
	pgtest.WantRows(t, pool, "SELECT service, status FROM service_health", "ingest unhealthy")
}

// Cycles that stand already are not stored again by a worker whose lease's row
// was lost, as a spool keeps them for a while.
func TestALostLeaseRowDoublesNothing(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	begin := time.Now().UTC().Truncate(time.Microsecond)
	cycles := []spool.Cycle{cycleAt(begin, 1, 2), cycleAt(begin.Add(time.Second), 3, 4)}
	if _, _, err := store.AppendCycles(t.Context(), token, cycles, false); err != nil {
		t.Fatal(err)
	}
	database.Exec(t, "DELETE FROM ops_worker_lease")
	token = acquire(t, store, "a")
	cycles = append(cycles, cycleAt(begin.Add(2*time.Second), 5, 6))
	if stored, _, err := store.AppendCycles(t.Context(), token, cycles, false); err != nil || stored != 2 {
		t.Errorf("stored %d samples, %v; want the 2 that are new", stored, err)
	}
	pgtest.WantRows(t, pool, "SELECT count(*), count(DISTINCT (time, metric_name)) FROM system_metrics", "6 6")
}

// The newest values are those of exactly the series that are asked for, each found
// by a step through its index.
func TestTheNewestValuesOfSeries(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT now() - make_interval(secs => i), m, s, i
		FROM generate_series(1, 3000) i, unnest(ARRAY['messages_written', 'alerts_created']) m, unnest(ARRAY['ingest', 'evaluator', NULL]) s`)
	database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, value) VALUES (now() + interval '3 days', 'messages_written', 'ingest', 7), (now(), 'other', 'ingest', 8)`)
	database.Exec(t, "ANALYZE system_metrics")
	got, err := store.NewestValues(t.Context(), []Series{{"ingest", "messages_written"}, {"evaluator", "alerts_created"}, {"ingest", "none"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(map[Series]float64{{"ingest", "messages_written"}: 1, {"evaluator", "alerts_created"}: 1}, got); diff != "" {
		t.Error(diff)
	}
	plan := strings.Join(pgtest.Plans(t, pool, func(ctx context.Context, q *db.Queries) {
		_, _ = q.NewestValues(ctx, db.NewestValuesParams{MetricNames: []string{"messages_written"}, Services: []string{"ingest"}, FutureSeconds: 60})
	}), "\n")
	if !strings.Contains(plan, "idx_system_metrics_name_service_time") || strings.Contains(plan, "Seq Scan") || strings.Contains(plan, "Sort") {
		t.Error(plan)
	}
}

// The rows, the counts of checks and the alerts go by half of the instances.
func TestAServiceOfWhichHalfIsWellHasNoAlert(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	well, down := probe.InstanceReading{Reading: wellInstance}, probe.InstanceReading{Reading: deadInstance}
	half, fewer := observation("ingest", probe.Reading{Status: probe.Degraded, Err: "1 of 2"}), observation("evaluator", probe.Reading{Status: probe.Degraded, Err: "2 of 3"})
	half.Instances, fewer.Instances = []probe.InstanceReading{well, down}, []probe.InstanceReading{well, down, down}
	observations := []probe.Observation{half, fewer}
	if err := saveHealth(t.Context(), store, token, time.Now(), observations); err != nil {
		t.Fatal(err)
	}
	opened, _, err := syncAlerts(t.Context(), store, token, observations)
	if diff := gocmp.Diff([]string{"evaluator"}, opened); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
	pgtest.WantRows(t, pool, "SELECT h.service, h.status, s.healthy, h.details->>'status' FROM service_health h JOIN ops_worker_streak s USING (service) ORDER BY 1",
		"evaluator unhealthy false degraded", "ingest healthy true degraded")
	pgtest.WantRows(t, pool, "SELECT summary FROM fleet_alert WHERE status = 'OPEN'", "Service unhealthy: evaluator (2 of 3)")
}

// What an aggregate costs is its call alone: neither the wait for a connection, which a
// busy pooler makes long, nor what is not known.
func TestWhatAnAggregateCosts(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	config := database.Pool(t).Config()
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := storeOn(pool, 5*time.Second)
	list := []db.Aggregate{Aggregates[0]}

	busy, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const wait = time.Second
	time.AfterFunc(wait, busy.Release)
	began := time.Now()
	a := store.Aggregates(t.Context(), list)
	if took := a.Of["database"].Took; time.Since(began) < wait || took <= 0 || took > wait/2 {
		t.Errorf("behind a connection that was busy for %s it took %s", wait, took)
	}

	// One that the server ends has taken so long at least.
	slow := Aggregates[slices.IndexFunc(Aggregates, func(a db.Aggregate) bool { return a.Name == "tenants" })]
	database.Exec(t, "ALTER TABLE tenants RENAME TO gone; CREATE VIEW tenants AS SELECT gone.* FROM gone, pg_sleep(60)")
	a = storeOn(pool, 300*time.Millisecond).Aggregates(t.Context(), []db.Aggregate{slow})
	if took := a.Of["tenants"].Took; !db.IsTimeout(a.Of["tenants"].Err) || took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("%v, took %s", a.Of["tenants"].Err, took)
	}

	// An error, and a database that cannot be reached, say nothing of the cost.
	database.Exec(t, "DROP VIEW tenants")
	if a = store.Aggregates(t.Context(), []db.Aggregate{slow}); a.Of["tenants"].Err == nil || a.Of["tenants"].Took > 0 {
		t.Errorf("a missing table: %v", a.Of)
	}
	away, err := pgxpool.New(t.Context(), "postgres://iot@127.0.0.1:1/iotcloud")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	if a = storeOn(away, time.Second).AggregatesBeside(t.Context(), list); a.Answered || a.Of["database"].Err == nil || a.Of["database"].Took > 0 {
		t.Errorf("an unreachable database: %v", a.Of)
	}
}

// A managed server refuses some functions of the system catalogue: each costs the
// numbers that need it, and no other.
func TestAFunctionThatIsRefusedCostsItsNumbers(t *testing.T) {
	t.Parallel()
	for function, costs := range map[string][]string{
		"pg_current_wal_lsn()":             {"wal_bytes"}, // and replication_lag_bytes, where there is a standby
		"pg_database_size(name)":           {"db_size_bytes"},
		"pg_lock_status()":                 {"locks_waiting", "table_bytes"},
		"pg_total_relation_size(regclass)": {"table_bytes"},
		"pg_stat_get_wal_senders()":        nil,
		"pg_last_wal_receive_lsn()":        nil,
	} {
		t.Run(function, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			store, _ := loginRole(t, database, "IN ROLE pg_read_all_stats")
			missing := func() (names []string) {
				a := store.Aggregates(t.Context(), Aggregates)
				got := metricsOf(a.samples())
				for _, s := range contracttest.FirstSamples() {
					if (s.Service == "postgres" || s.Service == "platform") && s.Metric != "healthy" && !slices.Contains(got, s.Metric) {
						names = append(names, s.Metric)
					}
				}
				slices.Sort(names)
				return names
			}
			if lost := missing(); len(lost) > 0 {
				t.Fatalf("%v are missing where nothing is refused", lost)
			}
			database.Exec(t, "REVOKE EXECUTE ON FUNCTION pg_catalog."+function+" FROM PUBLIC, pg_read_all_stats, pg_monitor")
			if diff := gocmp.Diff(costs, missing()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An aggregate that the cycle's deadline ends before the server does is read beside the
// cycles next, and has not failed.
func TestAnAggregateThatTheDeadlineEnds(t *testing.T) {
	t.Parallel()
	database, _, store := onDatabase(t)
	database.Exec(t, `ALTER TABLE tenants RENAME TO t; CREATE VIEW tenants AS SELECT t.* FROM t, pg_sleep(0.5);
		ALTER TABLE device_state RENAME TO d; CREATE VIEW device_state AS SELECT d.* FROM d, pg_sleep(60)`)
	named := func(name string) db.Aggregate {
		return Aggregates[slices.IndexFunc(Aggregates, func(a db.Aggregate) bool { return a.Name == name })]
	}
	list := []db.Aggregate{named("tenants"), named("devices"), named("alerts")}
	// The server gives each two thirds of the time, of which the first takes half.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	a := store.Aggregates(ctx, list)
	if !a.Of["devices"].TimedOut || !a.Of["alerts"].TimedOut || a.Of["devices"].Err == nil || a.Of["tenants"].Err != nil {
		t.Fatalf("%+v", a.Of)
	}
	p := newSchedule(list, 5*time.Second, 0.02)
	p.ended(a, false)
	if devices := p.list[1]; !p.beside(devices) || !p.isDue(devices, time.Now(), time.Now()) {
		t.Errorf("%+v", devices)
	}
}

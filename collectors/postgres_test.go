package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// onDatabase is a store on a database of the test's own, as its superuser.
func onDatabase(t *testing.T) (*pgtest.Database, *pgxpool.Pool, *Postgres) {
	t.Helper()
	database := pgtest.New(t)
	pool := database.Pool(t)
	return database, pool, NewPostgres(pool, 5*time.Second, time.Minute)
}

func acquire(t *testing.T, store *Postgres, holder string) Token {
	t.Helper()
	grant, err := store.Acquire(t.Context(), holder, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return Token{holder, grant.Epoch}
}

// rowsOf returns the rows of a query as text.
func rowsOf(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		for i, v := range values {
			values[i] = strings.ReplaceAll(fmt.Sprint(v), "<nil>", "-")
		}
		return strings.TrimSpace(fmt.Sprintln(values...)), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func wantRows(t *testing.T, pool *pgxpool.Pool, sql string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, rowsOf(t, pool, sql), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: %s", sql, diff)
	}
}

// eventually waits until condition holds, up to a deadline.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		wait(t.Context(), 20*time.Millisecond)
	}
}

const seedPlatform = `
	INSERT INTO device_state (tenant_id, device_id, site_id, status)
	SELECT 't', i::text, 's', CASE WHEN i <= 5 THEN 'ONLINE' WHEN i <= 8 THEN 'STALE' ELSE 'OFFLINE' END FROM generate_series(1, 12) i;
	INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
	SELECT 't', 's', 'd', 'X', i::text, CASE WHEN i <= 2 THEN 'OPEN' WHEN i = 3 THEN 'ACKNOWLEDGED' ELSE 'CLOSED' END, 'x' FROM generate_series(1, 6) i;
	INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, status, payload_json)
	SELECT 't', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', CASE WHEN i <= 4 THEN 'PENDING' ELSE 'COMPLETED' END, '{}' FROM generate_series(1, 9) i`

func TestAggregatesCountThePlatform(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	database.Exec(t, seedPlatform)
	a := store.Aggregates(t.Context())
	if !a.Answered || len(a.Failed) != 0 {
		t.Fatalf("%+v", a)
	}
	values := map[string]float64{}
	for _, s := range a.Samples {
		values[s.Service+" "+s.Metric] = s.Value
		if s.Tags != "{}" {
			t.Errorf("tags of %s: %q", s.Metric, s.Tags)
		}
	}
	for name, want := range map[string]float64{
		"platform devices_online": 5, "platform devices_stale": 3, "platform alerts_open": 2, "platform deliveries_pending": 4,
	} {
		if values[name] != want {
			t.Errorf("%s is %g, want %g", name, values[name], want)
		}
	}
	if len(a.Samples) != 6 || values["postgres connections"] < 1 || values["postgres db_size_bytes"] < 1e6 {
		t.Errorf("samples: %v", a.Samples)
	}
	// The number is /capacity's own.
	wantRows(t, pool, `SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) - numbackends
		FROM pg_stat_database WHERE datname = current_database()`, "0")
}

func TestAMissingTableOrColumnCostsItsOwnSamplesUntilItIsThere(t *testing.T) {
	t.Parallel()
	database, _, store := onDatabase(t)
	names := func() []string {
		a := store.Aggregates(t.Context())
		if !a.Answered {
			t.Fatalf("%+v", a)
		}
		var list []string
		for _, s := range a.Samples {
			list = append(list, s.Metric)
		}
		for name, err := range a.Failed {
			list = append(list, "failed "+name)
			if text := err.Error(); !strings.Contains(text, "device_state") && !strings.Contains(text, "status") {
				t.Errorf("the error names neither table nor column: %v", err)
			}
		}
		slices.Sort(list)
		return list
	}
	all := []string{"alerts_open", "connections", "db_size_bytes", "deliveries_pending", "devices_online", "devices_stale"}
	without := func(failed string, metrics ...string) []string {
		list := slices.DeleteFunc(slices.Clone(all), func(m string) bool { return slices.Contains(metrics, m) })
		list = append(list, "failed "+failed)
		slices.Sort(list)
		return list
	}
	check := func(want []string) {
		t.Helper()
		if diff := cmp.Diff(want, names()); diff != "" {
			t.Error(diff)
		}
	}
	check(all)
	database.Exec(t, "ALTER TABLE device_state RENAME TO gone")
	check(without("devices", "devices_online", "devices_stale"))
	database.Exec(t, "ALTER TABLE gone RENAME TO device_state")
	check(all)
	database.Exec(t, "ALTER TABLE fleet_alert RENAME COLUMN status TO state")
	check(without("alerts", "alerts_open"))
	database.Exec(t, "ALTER TABLE fleet_alert RENAME COLUMN state TO status; ALTER TABLE device_state RENAME TO gone; ALTER TABLE delivery_jobs RENAME TO gone_too")
	if diff := cmp.Diff([]string{"alerts_open", "connections", "db_size_bytes", "failed deliveries", "failed devices"}, func() []string {
		a := store.Aggregates(t.Context())
		var list []string
		for _, s := range a.Samples {
			list = append(list, s.Metric)
		}
		for name := range a.Failed {
			list = append(list, "failed "+name)
		}
		slices.Sort(list)
		return list
	}()); diff != "" {
		t.Error(diff)
	}
}

func TestATableThatIsLockedCostsItsOwnSamples(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
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
	a := store.Aggregates(ctx)
	if len(a.Failed) != 2 || a.Failed["alerts"] == nil || a.Failed["deliveries"] == nil || len(a.Samples) != 4 {
		t.Errorf("%+v", a)
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
	return NewPostgres(pool, 5*time.Second, time.Minute), pool
}

func TestForcedRowSecurityIsReadPastInTheOperatorsRole(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, seedPlatform)
	forceRowSecurity(t, database)
	store, pool := loginRole(t, database, "IN ROLE pulse_operator")
	a := store.Aggregates(t.Context())
	if len(a.Failed) != 0 {
		t.Fatalf("%+v", a.Failed)
	}
	if i := slices.IndexFunc(a.Samples, func(s Sample) bool { return s.Metric == "devices_online" }); i < 0 || a.Samples[i].Value != 5 {
		t.Errorf("samples: %v", a.Samples)
	}
	// The role does not stay with the connection.
	wantRows(t, pool, "SELECT current_user = session_user, current_setting('row_security')", "true on")
}

func TestForcedRowSecurityIsNeverASilentZero(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, seedPlatform)
	forceRowSecurity(t, database)
	store, _ := loginRole(t, database, "")
	a := store.Aggregates(t.Context())
	if !a.Answered {
		t.Fatalf("%+v", a)
	}
	for _, name := range []string{"devices", "alerts"} {
		err := a.Failed[name]
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		table := map[string]string{"devices": "device_state", "alerts": "fleet_alert"}[name]
		for _, part := range []string{"row-level security", table, "GRANT pulse_operator TO"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is not in %v", name, part, err)
			}
		}
	}
	wantMetrics := []string{"connections", "db_size_bytes", "deliveries_pending"} // not under a policy
	var got []string
	for _, s := range a.Samples {
		got = append(got, s.Metric)
	}
	slices.Sort(got)
	if diff := cmp.Diff(wantMetrics, got); diff != "" {
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
	database.Exec(t, seedPlatform)
	forceRowSecurity(t, database)
	store, _ := loginRole(t, database, "IN ROLE pulse_operator_read")
	if a := store.Aggregates(t.Context()); len(a.Failed) != 0 || len(a.Samples) != 6 {
		t.Errorf("%+v", a)
	}
}

// The log line at the start and doctor name the role by one query; the cycles
// take it on by another. They must agree.
func TestTheRoleThatIsNamedIsTheOneThatIsTaken(t *testing.T) {
	t.Parallel()
	agree := func(pool *pgxpool.Pool, want string) {
		t.Helper()
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			q := db.New(tx)
			session, err := q.DescribeSession(t.Context())
			if err != nil {
				return err
			}
			if want == "" {
				want = session.LoginRole
			}
			scope, err := q.EnterPlatformScope(t.Context())
			if session.ScopeRole != want || scope.Role != want {
				t.Errorf("%q is named and %q taken, want %q", session.ScopeRole, scope.Role, want)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	database := pgtest.New(t)
	_, member := loginRole(t, database, "IN ROLE pulse_operator")
	agree(member, "pulse_operator")
	_, stranger := loginRole(t, database, "")
	agree(stranger, "")
	agree(database.Pool(t), "pulse_operator")
	database.Exec(t, "REVOKE SELECT ON device_state FROM pulse_operator")
	agree(database.Pool(t), "") // a superuser does without
	agree(member, "pulse_operator")
}

func observation(service string, r Reading) Observation { return Observation{service, r} }

func TestHealthRowsAreTheContracts(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	save := func(observations ...Observation) {
		t.Helper()
		if err := store.SaveHealth(t.Context(), token, at, observations); err != nil {
			t.Fatal(err)
		}
	}
	save(
		observation("ingest", Reading{Status: Healthy, Latency: 12 * time.Millisecond, HTTPStatus: 200, Counters: map[string]float64{"queue_depth": 3}}),
		observation("evaluator", Reading{Status: Degraded, Latency: 3 * time.Millisecond, HTTPStatus: 503}),
		observation("mqtt", Reading{Status: Down, Err: "connection refused"}),
		observation("billing", Reading{Status: Unknown, Err: "no answer within 5s"}),
	)
	const all = "SELECT service, status, latency_ms, details::text, checked_at = '2026-01-02 03:04:05.678901Z' FROM service_health ORDER BY service"
	wantRows(t, pool, all,
		`billing unhealthy - {"error": "no answer within 5s", "status": "unknown"} true`,
		`evaluator unhealthy 3 {"status": "degraded", "latency_ms": 3, "http_status": 503} true`,
		`ingest healthy 12 {"status": "healthy", "counters": {"queue_depth": 3}, "latency_ms": 12, "http_status": 200} true`,
		`mqtt unhealthy - {"error": "connection refused", "status": "down"} true`)
	save(observation("mqtt", Reading{Status: Healthy, Latency: time.Microsecond}))
	wantRows(t, pool, "SELECT status, latency_ms, details::text FROM service_health WHERE service = 'mqtt'", `healthy 0 {"status": "healthy", "latency_ms": 0}`)
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
			sync := func(status Status, wantOpened, wantClosed int) {
				t.Helper()
				opened, closed, err := store.SyncAlerts(t.Context(), token, []Observation{
					observation("ingest", Reading{Status: status, Err: "reason"}), observation("mqtt", Reading{Status: Healthy})}, true)
				if err != nil || len(opened) != wantOpened || len(closed) != wantClosed {
					t.Errorf("%s: opened %v, closed %v, %v", status, opened, closed, err)
				}
			}
			const alerts = "SELECT status, closed_at IS NOT NULL, details ? 'resolved_at' FROM fleet_alert ORDER BY id"
			sync(Healthy, 0, 0)
			wantRows(t, pool, "SELECT tenant_id FROM tenants")
			sync(Unknown, 1, 0)
			wantRows(t, pool, `SELECT tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, confidence, summary, details::text FROM fleet_alert`,
				`__system__ __system__ __system__ SYSTEM_HEALTH system-health:ingest OPEN 5 1 Service unhealthy: ingest (reason) {"kind": "system_health", "service": "ingest"}`)
			wantRows(t, pool, "SELECT tenant_id, name, metadata::text FROM tenants", `__system__ System Alerts {"kind": "system"}`)
			sync(Unknown, 0, 0)
			database.Exec(t, "UPDATE fleet_alert SET status = 'ACKNOWLEDGED'")
			sync(Down, 0, 0)
			wantRows(t, pool, alerts, "ACKNOWLEDGED false false")
			sync(Healthy, 0, 1)
			wantRows(t, pool, alerts, "CLOSED true true")
			sync(Healthy, 0, 0)
			sync(Down, 1, 0)
			sync(Healthy, 0, 1)
			wantRows(t, pool, alerts, "CLOSED true true", "CLOSED true true")
		})
	}
}

func TestSystemAlertsAreFoundByTheirIndex(t *testing.T) {
	t.Parallel()
	database, pool, _ := onDatabase(t)
	database.Exec(t, `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
		SELECT 't' || i % 50, 's', 'd', 'X', i::text, 'CLOSED', 'x' FROM generate_series(1, 20000) i; ANALYZE fleet_alert`)
	plan := strings.Join(rowsOf(t, pool, "EXPLAIN "+db.SyncSystemAlerts, []string{"ingest"}, []bool{true}, []string{""}, false), "\n")
	if strings.Count(plan, "Seq Scan on fleet_alert") > 1 || !strings.Contains(plan, "idx_fleet_alert_open_uq") {
		t.Errorf("more than the acknowledged alerts of unhealthy services is scanned for: %s", plan)
	}
}

func TestSystemAlertsUnderForcedRowSecurity(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	forceRowSecurity(t, database)
	down := []Observation{observation("ingest", Reading{Status: Down})}

	store, _ := loginRole(t, database, "")
	if _, _, err := store.SyncAlerts(t.Context(), acquire(t, store, "a"), down, true); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("a role that the policies bind: %v", err)
	}
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = now()")

	// Half of the rights would not do, and are not taken for all of them.
	database.Exec(t, "GRANT INSERT, UPDATE ON fleet_alert, tenants TO pulse_operator")
	half, _ := loginRole(t, database, "IN ROLE pulse_operator")
	if _, _, err := half.SyncAlerts(t.Context(), acquire(t, half, "half"), down, true); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("a role that may take on half an operator's: %v", err)
	}
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = now()")
	database.Exec(t, "GRANT SELECT, INSERT, UPDATE ON fleet_alert, tenants TO pulse_operator; GRANT USAGE ON SEQUENCE fleet_alert_id_seq TO pulse_operator")
	store, _ = loginRole(t, database, "IN ROLE pulse_operator")
	if opened, _, err := store.SyncAlerts(t.Context(), acquire(t, store, "b"), down, true); err != nil || len(opened) != 1 {
		t.Errorf("a role that may take on the operator's: %v, %v", opened, err)
	}
}

func cycleAt(at time.Time, values ...float64) Cycle {
	c := Cycle{At: at}
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
	cycles := []Cycle{cycleAt(begin, 1, 2), cycleAt(begin.Add(time.Second), 3, 4), cycleAt(begin.Add(2*time.Second), 5, 6)}
	for i, want := range []int{4, 2, 0} { // of 1–2, of 1–3, of 1–3 again
		if stored, _, err := store.AppendCycles(t.Context(), token, cycles[:min(2+i, 3)]); err != nil || stored != want {
			t.Errorf("append %d stored %d samples, want %d: %v", i, stored, want, err)
		}
	}
	wantRows(t, pool, "SELECT metric_name, service, tags::text, value FROM system_metrics ORDER BY value",
		"metric_0 ingest {} 1", "metric_1 ingest {} 2", "metric_0 ingest {} 3", "metric_1 ingest {} 4", "metric_0 ingest {} 5", "metric_1 ingest {} 6")
	wantRows(t, pool, "SELECT max(time) = (SELECT last_cycle_at FROM ops_worker_lease) FROM system_metrics", "true")
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
				n, _, err := store.AppendCycles(t.Context(), token, []Cycle{cycle})
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
	wantRows(t, pool, "SELECT count(*), count(DISTINCT (time, metric_name)) FROM system_metrics", "60 60")
}

func TestAWriteWithoutTheLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	old := acquire(t, store, "a")
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = clock_timestamp()")
	writes := map[string]func(Token) error{
		"append": func(token Token) error {
			_, _, err := store.AppendCycles(t.Context(), token, []Cycle{cycleAt(time.Now(), 1)})
			return err
		},
		"health": func(token Token) error {
			return store.SaveHealth(t.Context(), token, time.Now(), []Observation{observation("x", Reading{Status: Down})})
		},
		"alerts": func(token Token) error {
			_, _, err := store.SyncAlerts(t.Context(), token, []Observation{observation("x", Reading{Status: Down})}, true)
			return err
		},
		"expire": func(token Token) error {
			_, _, err := store.ExpireSamples(t.Context(), token, time.Now().Add(time.Hour), 10)
			return err
		},
		"renew": func(token Token) error {
			_, err := store.Renew(t.Context(), token, time.Minute)
			return err
		},
	}
	refused := func(who string, token Token) {
		t.Helper()
		for name, write := range writes {
			if err := write(token); !errors.Is(err, ErrLeaseLost) {
				t.Errorf("%s, %s: %v", who, name, err)
			}
		}
	}
	refused("expired", old)
	acquire(t, store, "b")
	refused("taken over", old)
	refused("wrong epoch", Token{"b", 99})
	wantRows(t, pool, "SELECT (SELECT count(*) FROM system_metrics) + (SELECT count(*) FROM service_health) + (SELECT count(*) FROM fleet_alert)", "0")
}

func TestTheLeaseHasOneHolder(t *testing.T) {
	t.Parallel()
	_, _, store := onDatabase(t)
	var won []string
	var mu sync.Mutex
	var asking sync.WaitGroup
	for i := range 8 {
		asking.Go(func() {
			holder := fmt.Sprint("replica-", i)
			_, err := store.Acquire(t.Context(), holder, time.Minute)
			if err != nil && !errors.Is(err, ErrLeaseLost) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, holder)
			}
		})
	}
	asking.Wait()
	holder, held, err := store.HeldBy(t.Context())
	if err != nil || len(won) != 1 || !held || holder != won[0] {
		t.Errorf("won by %v, held by %q, %v", won, holder, err)
	}
}

func TestATakeoverWaitsForTheStoreInFlight(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	inStore, finish := make(chan struct{}), make(chan struct{})
	var storing sync.WaitGroup
	storing.Go(func() {
		err := store.fenced(t.Context(), token, func(*db.Queries) error {
			close(inStore)
			<-finish
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-inStore
	// The lease runs out while the store is in flight.
	if _, err := pool.Exec(t.Context(), "UPDATE ops_worker_lease SET expires_at = clock_timestamp()"); err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	go func() {
		_, err := store.Acquire(t.Context(), "b", time.Minute)
		taken <- err
	}()
	eventually(t, "the take-over waits for a lock", func() bool {
		return slices.Equal(rowsOf(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"), []string{"1"})
	})
	close(finish)
	storing.Wait()
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

func TestTheServerItselfEndsAStatementThatTakesTooLong(t *testing.T) {
	t.Parallel()
	_, pool, _ := onDatabase(t)
	store := NewPostgres(pool, 200*time.Millisecond, time.Minute)
	token := acquire(t, store, "a")
	blocker, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Rollback(context.WithoutCancel(t.Context()))
	if _, err := blocker.Exec(t.Context(), "LOCK TABLE service_health IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	err = store.SaveHealth(t.Context(), token, time.Now(), []Observation{observation("x", Reading{Status: Down})})
	if !isTimeout(err) {
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
		_, _, err := store.SyncAlerts(t.Context(), token, []Observation{observation("x", Reading{Status: Down})}, true)
		alerts <- err
	}()
	eventually(t, "the alerts wait for their table", func() bool {
		return slices.Equal(rowsOf(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"), []string{"1"})
	})
	if stored, _, err := store.AppendCycles(t.Context(), token, []Cycle{cycleAt(time.Now(), 1)}); err != nil || stored != 1 {
		t.Errorf("append meanwhile: %d, %v", stored, err)
	}
	if err := store.SaveHealth(t.Context(), token, time.Now(), []Observation{observation("x", Reading{Status: Down})}); err != nil {
		t.Errorf("health meanwhile: %v", err)
	}
	if _, err := store.Renew(t.Context(), token, time.Minute); err != nil {
		t.Errorf("renewal meanwhile: %v", err)
	}
	if err := migration.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-alerts; err != nil {
		t.Errorf("alerts: %v", err)
	}
}

func TestAStoppedStoreDoesNotHoldTheLeaseForEver(t *testing.T) {
	t.Parallel()
	_, pool, _ := onDatabase(t)
	store := NewPostgres(pool, 300*time.Millisecond, time.Minute)
	token := acquire(t, store, "a")
	err := store.fenced(t.Context(), token, func(q *db.Queries) error {
		// As a process that is stopped here: the transaction idles.
		eventually(t, "the server ends the idle transaction", func() bool {
			return slices.Equal(rowsOf(t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"), []string{"0"})
		})
		_, err := q.Now(t.Context())
		return err
	})
	if err == nil {
		t.Error("the store should fail when it wakes")
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
	wantRows(t, pool, "SELECT count(*), max(value) FROM system_metrics", "6048 167")
	// By its index, however large the table is.
	database.Exec(t, "ANALYZE system_metrics; SET enable_seqscan = off")
	plan := strings.Join(rowsOf(t, pool, "EXPLAIN "+strings.NewReplacer("$1", "now()", "$2", "5000").Replace(db.DeleteExpiredSamples)), "\n")
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
		plan := strings.Join(rowsOf(t, pool, "EXPLAIN "+db.AlertSamples), "\n")
		if !strings.Contains(plan, "idx_fleet_alert_open_uq") || strings.Contains(plan, "Seq Scan") {
			t.Errorf("%s index: %s", name, plan)
		}
	}
}

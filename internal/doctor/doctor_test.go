package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/collectors"
	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/lease"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	metricsInterval = 10 * time.Second
	healthInterval  = time.Minute
)

// stage is a platform in which all is well: a migrated database with the fresh
// samples and health rows of a worker that has held the lease for a while, and
// services that answer. A test spoils one thing of it.
type stage struct {
	database *pgtest.Database
	pool     *pgxpool.Pool
	client   *db.Client
	store    *collectors.Postgres
	token    lease.Token
	now      time.Time // the database's
	last     time.Time // the newest cycle

	env map[string]string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	database := pgtest.New(t)
	s := &stage{database: database, pool: database.Pool(t), env: map[string]string{
		"DATABASE_URL":                database.URL,
		"METRICS_COLLECTION_INTERVAL": metricsInterval.String(),
		"HEALTH_CHECK_INTERVAL":       healthInterval.String(),
	}}
	for _, of := range config.PlatformServices()[:2] { // those that are monitored by default
		var counters []string
		for _, c := range of.Counters {
			counters = append(counters, c.Name)
		}
		s.env[of.Variable] = service(t, http.StatusOK, counters...)
	}
	s.client = db.NewClient(s.pool, 5*time.Second)
	s.store = collectors.NewPostgres(s.client, s.client, time.Hour)
	grant, err := lease.NewPostgres(s.client, 0).Acquire(t.Context(), "worker-1/1/0a1b2c3d", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s.token, s.now = lease.Token{Holder: "worker-1/1/0a1b2c3d", Epoch: grant.Epoch}, grant.Now
	database.Exec(t, "UPDATE ops_worker_lease SET acquired_at = acquired_at - interval '2 hours'")
	s.cycles(t, 60)
	s.health(t, s.now.Add(-5*time.Second), "ingest", "evaluator", "postgres")
	return s
}

// service is a service that answers with a status and these counters.
func service(t *testing.T, status int, counters ...string) string {
	t.Helper()
	answer := map[string]any{"status": "healthy"}
	values := map[string]int{}
	for i, name := range counters {
		values[name] = i
	}
	answer["counters"] = values
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// cycles appends n cycles that end just now, under the lease, with the samples
// of a real one, those of a minute in one of six.
func (s *stage) cycles(t *testing.T, n int) {
	t.Helper()
	s.last = s.now.Add(-time.Second).Truncate(time.Microsecond)
	cfg, err := s.config()
	if err != nil {
		t.Fatal(err)
	}
	worker := collectors.NewWorker(collectors.Options{Config: cfg, Pool: s.pool, Buffer: spool.NewMemory(1), Log: zerolog.Nop()})
	found, _, _, err := worker.OnceMetrics(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	cycles := make([]spool.Cycle, n)
	for i := range cycles {
		samples := slices.Clone(found.Samples)
		if i%6 != 0 { // the newest of a minute is older than three intervals
			samples = slices.DeleteFunc(samples, func(s spool.Sample) bool {
				return slices.Contains(contracttest.NotInEveryCycle(), s.Service+" "+s.Metric)
			})
		}
		cycles[i] = spool.Cycle{At: s.last.Add(-time.Duration(n-1-i) * metricsInterval), Samples: samples}
	}
	if _, _, err := s.store.AppendCycles(t.Context(), s.token, cycles, false); err != nil {
		t.Fatal(err)
	}
}

// health writes the health rows of one cycle, under the lease.
func (s *stage) health(t *testing.T, at time.Time, services ...string) {
	t.Helper()
	observations := make([]probe.Observation, len(services))
	for i, name := range services {
		observations[i] = probe.Observation{Service: name, Reading: probe.Reading{Status: probe.Healthy, Latency: time.Millisecond}}
	}
	if err := s.store.SaveHealth(t.Context(), s.token, at, observations, nil); err != nil {
		t.Fatal(err)
	}
}

// interleave is a second writer that has written until some time ago: every 4 s
// after ours.
func (s *stage) interleave(t *testing.T, ago time.Duration) {
	t.Helper()
	s.database.Exec(t, `
		INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT m.time + interval '4 seconds' - interval '10 seconds', m.metric_name, m.service, m.value
		FROM system_metrics m WHERE m.time < $1`, s.last.Add(-ago))
}

// release ends the lease, after the newest cycle and the newest health rows.
func (s *stage) release(t *testing.T) {
	t.Helper()
	s.database.Exec(t, "UPDATE ops_worker_lease SET expires_at = clock_timestamp() - interval '3 seconds'")
}

// as makes the worker log in as another role.
func (s *stage) as(t *testing.T, options string) (role string) {
	t.Helper()
	role, url := s.database.Role(t, options)
	s.env["DATABASE_URL"] = url
	return role
}

// worker is a login role that has what the worker needs and no more, but for making
// tables.
func (s *stage) worker(t *testing.T) (role string) {
	t.Helper()
	role = s.as(t, "NOSUPERUSER NOBYPASSRLS")
	s.grant(t, role)
	s.database.Exec(t, "GRANT CREATE ON SCHEMA public TO "+role)
	return role
}

func (s *stage) config() (config.Config, error) { return fromEnv(s.env) }

func fromEnv(env map[string]string) (config.Config, error) {
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	return config.FromEnvironment(environ)
}

func (s *stage) run(t *testing.T) Report {
	t.Helper()
	cfg, err := s.config()
	return Run(t.Context(), cfg, err, collectors.Aggregates)
}

// of is a check of a report.
func of(t *testing.T, r Report, name string) Check {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("there is no check %q", name)
	return Check{}
}

func text(t *testing.T, r Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAllIsWell(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	wantWell(t, s.run(t))
}

// A role with what grants prints is well, whether or not policies would hide rows.
func TestWithoutSuperuser(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ plant, found string }{
		"no policies": {"SELECT", "reads the platform's tables as itself"},
		"policies": {"ALTER TABLE device_state ENABLE ROW LEVEL SECURITY; ALTER TABLE device_state FORCE ROW LEVEL SECURITY",
			"reads the platform's tables as pulse_operator, past row-level security"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.database.Exec(t, test.plant)
			s.worker(t)
			r := s.run(t)
			wantWell(t, r)
			if got := strings.Join(of(t, r, "role").Found, "\n"); !strings.Contains(got, test.found) {
				t.Errorf("role: %q", got)
			}
		})
	}
}

// wantWell fails for each check that is not OK, but that of a server older than 15.
func wantWell(t *testing.T, r Report) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Result != OK && c.Name != "server version" {
			t.Errorf("%s is %s: %q", c.Name, c.Result, c.Found)
		}
	}
}

// Through a pooler in transaction mode nothing is different.
func TestThroughPooler(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.env["DATABASE_URL"] = pgtest.NewPgBouncer(t, s.database.URL, "transaction", "").URL
	s.env["PG_POOL_MAX"] = "900" // of the pooler's connections, not the server's
	r := s.run(t)
	wantWell(t, r)
	if got := of(t, r, "connection"); !strings.Contains(strings.Join(got.Found, "\n"), "through a pooler") {
		t.Errorf("connection: %q", got.Found)
	}
}

// What doctor tries of the worker's writes it rolls back, and it waits for nobody who
// holds a lock.
func TestNothingIsChanged(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const rows = `SELECT (SELECT count(*) FROM ops_worker_lease), (SELECT count(*) FROM ops_worker_streak), (SELECT count(*) FROM service_health),
		(SELECT count(*) FROM system_metrics), (SELECT count(*) FROM fleet_alert), (SELECT count(*) FROM tenants)`
	before := pgtest.Rows(t, s.pool, rows)
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE ops_worker_streak, device_registry"); err != nil {
		t.Fatal(err)
	}
	r := s.run(t)
	if r.ExitCode() != 1 {
		t.Errorf("a lock is no warning:\n%s", text(t, r))
	}
	for check, locked := range map[string]string{"writes": "the counts of checks", "aggregates": "registry", "routes": "/aggregates devices"} {
		if found := strings.Join(of(t, r, check).Found, "\n"); !strings.Contains(found, "somebody holds a lock for longer than a second ("+locked+")") {
			t.Errorf("%s: %s", check, found)
		}
		// The advice finds the session.
		advice := strings.Join(of(t, r, check).Advice, "\n")
		_, query, _ := strings.Cut(advice, "transaction: ")
		holder := fmt.Sprint(tx.Conn().PgConn().PID(), " ")
		if rows := pgtest.Rows(t, s.pool, query+" LIMIT 1"); len(rows) != 1 || !strings.HasPrefix(rows[0], holder) {
			t.Errorf("%s: session %s, and the query of %q says %q", check, holder, advice, rows)
		}
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run(t)
	pgtest.WantRows(t, s.pool, rows, before...)
}

// Of a database that the worker refuses nothing is promised.
func TestADatabaseOfSomebodyElse(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, "CREATE TABLE books (id int)")
	cfg, err := fromEnv(map[string]string{"DATABASE_URL": database.URL, "INGEST_HEALTH_URL": service(t, 200), "EVALUATOR_HEALTH_URL": service(t, 200)})
	r := Run(t.Context(), cfg, err, collectors.Aggregates)
	if c := of(t, r, "database"); r.ExitCode() != 2 || !strings.Contains(c.Found[0], "none of the platform's") || strings.Contains(text(t, r), startMakesIt) {
		t.Errorf("exit code %d:\n%s", r.ExitCode(), text(t, r))
	}
}

func TestUnmigratedDatabaseStaysAsItIs(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	cfg, err := fromEnv(map[string]string{"DATABASE_URL": database.URL, "INGEST_HEALTH_URL": service(t, 200), "EVALUATOR_HEALTH_URL": service(t, 200)})
	r := Run(t.Context(), cfg, err, collectors.Aggregates)
	// The role pulse_operator is the server's, and may be there already.
	if got := r.ExitCode(); got != 1 {
		t.Errorf("exit code %d, want 1:\n%s", got, text(t, r))
	}
	for name, want := range map[string]string{
		"schema": "never migrated", "writes": `relation "ops_worker_lease" does not exist (the lease, the samples)`, "routes": `relation "telemetry" does not exist`,
		"lease": `relation "system_metrics" does not exist, as migrations are pending`, "system alerts": "as migrations are pending",
	} {
		if got := strings.Join(of(t, r, name).Found, "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %q does not mention %q", name, got, want)
		}
	}
	var relations int
	const count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
	if err := database.Pool(t).QueryRow(t.Context(), count).Scan(&relations); err != nil || relations != 0 {
		t.Errorf("the doctor left %d relations (%v), want none", relations, err)
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	cfg, err := fromEnv(map[string]string{"PG_PORT": "s3cret", "LEASE_TTL": "soon", "DATABASE_URL": "mysql://u:s3cret@h/d"})
	r := Run(t.Context(), cfg, err, collectors.Aggregates)
	if r.ExitCode() != 2 {
		t.Errorf("exit code %d, want 2", r.ExitCode())
	}
	settings := of(t, r, "settings")
	for _, name := range []string{"PG_PORT", "LEASE_TTL", "DATABASE_URL"} {
		if !strings.Contains(strings.Join(settings.Found, "\n"), name+":") {
			t.Errorf("settings %q do not name %s", settings.Found, name)
		}
	}
	for _, c := range r.Checks[1:] {
		if c.Result != Skipped {
			t.Errorf("%s is %s, want it skipped", c.Name, c.Result)
		}
	}
	if out := text(t, r); strings.Contains(out, "s3cret") {
		t.Errorf("a value is shown:\n%s", out)
	}
	other := Run(t.Context(), config.Config{}, errors.New("no such thing"), nil)
	if got := of(t, other, "settings"); got.Result != Fail || other.ExitCode() != 2 {
		t.Errorf("settings after an error of another kind: %+v", got)
	}
}

func TestUnreachableDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ address, want, advice string }{
		"refused":   {refusing(t), "connection refused", "nothing listens there"},
		"hangs":     {silent(t), "no answer within", "check host and port"},
		"no server": {greeting(t), "", "check host and port"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := fromEnv(map[string]string{
				"DATABASE_URL":      "postgres://iot:s3cret@" + test.address + "/iotcloud?sslmode=disable",
				"INGEST_HEALTH_URL": "http://" + silent(t), "EVALUATOR_HEALTH_URL": "http://" + silent(t),
			})
			x := &run{cfg: cfg, settings: err,
				limits: limits{total: 2 * time.Second, check: 200 * time.Millisecond}}
			began := time.Now()
			r := x.report(t.Context())
			if elapsed := time.Since(began); elapsed > 5*time.Second {
				t.Errorf("it took %s", elapsed)
			}
			if r.ExitCode() != 2 {
				t.Errorf("exit code %d, want 2", r.ExitCode())
			}
			c := of(t, r, "connection")
			if c.Result != Fail || !strings.Contains(c.Found[0], test.want) || !strings.Contains(c.Found[0], test.address+"/iotcloud as iot") ||
				!strings.Contains(strings.Join(c.Advice, " "), test.advice) {
				t.Errorf("connection: %+v", c)
			}
			for _, c := range r.Checks[2:] {
				if c.Name != "services" && (c.Result != Skipped || c.Found[0] != "there is no connection to the database") {
					t.Errorf("%s: %+v", c.Name, c)
				}
			}
			if out := text(t, r); strings.Contains(out, "s3cret") {
				t.Errorf("the password is shown:\n%s", out)
			}
		})
	}
}

// hangingResolver is a name server that does not answer.
type hangingResolver struct{}

func (hangingResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Under a name server that hangs each service has its line and its advice.
func TestANameServerThatHangs(t *testing.T) {
	t.Parallel()
	cfg, err := fromEnv(map[string]string{
		"DATABASE_URL":      "postgres://iot@" + refusing(t) + "/iotcloud?sslmode=disable",
		"INGEST_HEALTH_URL": "http://ingest.invalid:8080", "EVALUATOR_HEALTH_URL": "http://evaluator.invalid:8080", "MQTT_HOST": "mqtt.invalid",
	})
	x := &run{cfg: cfg, settings: err, resolver: hangingResolver{},
		limits: limits{total: 10 * time.Second, check: 2 * time.Second}}
	c := of(t, x.report(t.Context()), "services")
	for _, service := range []string{"ingest", "evaluator", "mqtt"} {
		if !strings.Contains(strings.Join(c.Found, "\n"), service+": unknown, no answer within") || !strings.Contains(strings.Join(c.Advice, "\n"), "start "+service) {
			t.Errorf("%s: %+v", service, c)
		}
	}
}

// TestDatabaseThatFallsSilent hangs after the connection stands: every check
// ends by its own deadline, and the whole by its own.
func TestDatabaseThatFallsSilent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	cfg, err := s.config()
	if err != nil {
		t.Fatal(err)
	}
	target, err := pgxpool.ParseConfig(cfg.Database.URL)
	if err != nil {
		t.Fatal(err)
	}
	real := net.JoinHostPort(target.ConnConfig.Host, portOf(target))
	cfg.Database.URL = strings.Replace(cfg.Database.URL, real, freezing(t, real), 1)
	x := &run{cfg: cfg,
		limits: limits{total: 8 * time.Second, check: 3 * time.Second}}
	began := time.Now()
	r := x.report(t.Context())
	if elapsed := time.Since(began); elapsed > 30*time.Second {
		t.Errorf("it took %s", elapsed)
	}
	if r.ExitCode() != 2 {
		t.Errorf("exit code %d, want 2", r.ExitCode())
	}
	if got := of(t, r, "connection"); got.Result != OK {
		t.Errorf("connection: %+v", got)
	}
	if got := of(t, r, "system alerts"); got.Result != Skipped || !strings.Contains(got.Found[0], "the time for all checks together") {
		t.Errorf("the last check: %+v", got)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.as(t, "NOSUPERUSER")
	s.env["DATABASE_URL"] = strings.Replace(s.env["DATABASE_URL"], "@", "s3cret%40@", 1) // a wrong password
	for _, name := range []string{"INGEST_HEALTH_URL", "EVALUATOR_HEALTH_URL", "DISPATCHER_HEALTH_URL", "DELIVERY_HEALTH_URL", "KEYCLOAK_INTERNAL_URL"} {
		s.env[name] = "http://user:s3cret@" + refusing(t) + "/s3cret?token=s3cret"
	}
	s.env["HEALTH_SERVICES"] = "billing=https://user:s3cret@" + greeting(t) + "/?token=s3cret"
	s.env["NOTIFY_DATABASE_URL"] = "postgres://u:s3cret@h/d"
	refused := s.run(t)
	s.env["DATABASE_URL"] = s.database.URL
	for name, r := range map[string]Report{"refused": refused, "connected": s.run(t)} {
		asJSON, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if out := text(t, r) + string(asJSON); strings.Contains(out, "s3cret") {
			t.Errorf("%s: a secret is shown:\n%s", name, out)
		}
	}
}

// refusing is an address where nothing listens.
func refusing(t *testing.T) string {
	t.Helper()
	listener := listen(t)
	defer listener.Close()
	return listener.Addr().String()
}

// silent is a server that accepts and never answers.
func silent(t *testing.T) string {
	t.Helper()
	return serve(t, func(net.Conn) {})
}

// greeting is a server of another kind: it answers, but nothing sensible.
func greeting(t *testing.T) string {
	t.Helper()
	return serve(t, func(conn net.Conn) {
		if _, err := conn.Read(make([]byte, 1<<10)); err == nil {
			_, _ = conn.Write([]byte("220 mail.example.org ESMTP\r\n"))
		}
	})
}

// freezing passes on what the client sends, up to the first transaction; from
// then on nothing.
func freezing(t *testing.T, target string) string {
	t.Helper()
	return serve(t, func(client net.Conn) {
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", target)
		if err != nil {
			return
		}
		defer server.Close()
		go func() { // ends when server is closed
			buffer := make([]byte, 32<<10)
			for {
				n, err := server.Read(buffer)
				if err != nil {
					return
				}
				if _, err := client.Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
		buffer := make([]byte, 32<<10)
		frozen := false
		for {
			n, err := client.Read(buffer)
			if err != nil {
				return
			}
			frozen = frozen || strings.Contains(string(buffer[:n]), "begin")
			if frozen {
				continue
			}
			if _, err := server.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// serve calls handle for every connection, and then reads what comes until the
// client closes it or the test ends.
func serve(t *testing.T, handle func(net.Conn)) (address string) {
	t.Helper()
	listener := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				// A client that gave up may go on asking for a while, beyond the test.
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				defer conn.Close()
				handle(conn)
				buffer := make([]byte, 1<<10)
				for {
					if _, err := conn.Read(buffer); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		cancel()
		running.Wait()
	})
	return listener.Addr().String()
}

func portOf(c *pgxpool.Config) string { return strconv.Itoa(int(c.ConnConfig.Port)) }

// A worker that is kept from its lease is there, whatever the lease's row says.
func TestALockedLease(t *testing.T) {
	t.Parallel()
	for name, lock := range map[string]string{
		"table": "LOCK TABLE ops_worker_lease",
		"row":   "UPDATE ops_worker_lease SET holder = holder",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.database.Exec(t, "UPDATE ops_worker_lease SET expires_at = now() - interval '1 minute'")
			tx, err := s.pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(t.Context()) }()
			if _, err := tx.Exec(t.Context(), lock); err != nil {
				t.Fatal(err)
			}
			r := s.run(t)
			if c := of(t, r, "lease"); c.Result != Warn || !slices.Equal(c.Found, []string{lockedWords}) || !slices.Equal(c.Advice, []string{lockedAdvice}) {
				t.Errorf("%+v", c)
			}
			if c := of(t, r, "other writer"); name == "table" && c.Result != Skipped {
				t.Errorf("%+v", c)
			}
		})
	}
}

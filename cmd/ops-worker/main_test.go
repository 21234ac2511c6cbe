package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ops_worker/internal/logtest"
	"ops_worker/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// result is what a command left behind.
type result struct {
	status         int
	stdout, stderr string
}

func command(t *testing.T, environ []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	status := execute(ctx, args, environ, &stdout, &stderr)
	return result{status, stdout.String(), stderr.String()}
}

func (r result) want(t *testing.T, status int, stdout, stderr string) {
	t.Helper()
	if r.status != status || !strings.Contains(r.stdout, stdout) || !strings.Contains(r.stderr, stderr) {
		t.Errorf("status %d, want %d; stdout, want %q:\n%s\nstderr, want %q:\n%s", r.status, status, stdout, r.stdout, stderr, r.stderr)
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"run"}, {"migrate"}, {"migrate", "up"}, {"migrate", "down"}, {"migrate", "status"},
		{"once"}, {"once", "health"}, {"once", "metrics"}, {"healthcheck"}, {"version"}, {"doctor"}, {"status"}, {"grants"},
		{"maintenance"}, {"maintenance", "start"}, {"maintenance", "list"}, {"maintenance", "end"}} {
		command(t, nil, append(args, "--help")...).want(t, exitOK, "Usage:\n  ops-worker "+strings.Join(args, " "), "")
	}
}

func TestVersion(t *testing.T) {
	for _, args := range []string{"version", "--version"} {
		command(t, nil, args).want(t, exitOK, "ops-worker dev (commit unknown, built unknown)\n", "")
	}
}

func TestVersionAsJSON(t *testing.T) {
	r := command(t, nil, "version", "--json")
	var got map[string]string
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.status != exitOK {
		t.Fatalf("status %d, %v in %q", r.status, err, r.stdout)
	}
	want := map[string]string{"version": "dev", "commit": "unknown", "built": "unknown",
		"go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
	if !maps.Equal(got, want) {
		t.Errorf("prints %v, want %v", got, want)
	}
}

func TestWrongArgumentsAndSettingsExitWithTwo(t *testing.T) {
	command(t, nil, "run", "--nonsense").want(t, exitUsage, "", "unknown flag: --nonsense")
	command(t, nil, "bogus").want(t, exitUsage, "", "unknown command")
	command(t, nil, "docter").want(t, exitUsage, "", "Did you mean this?\n\tdoctor")
	command(t, nil, "migrate", "statsu").want(t, exitUsage, "", "migrate wants a command: up, down, status")
	command(t, nil, "once", "health", "extra").want(t, exitUsage, "", "unknown command")
	command(t, nil, "once").want(t, exitUsage, "", "once wants a command: health, metrics")
	command(t, nil, "migrate").want(t, exitUsage, "", "migrate wants a command: up, down, status")
	command(t, nil, "status", "--jsno").want(t, exitUsage, "", "unknown flag: --jsno")
	command(t, nil, "grants").want(t, exitUsage, "", "accepts 1 arg(s), received 0")
	for _, args := range [][]string{{"run"}, {}, {"migrate", "up"}, {"once", "health"}} {
		r := command(t, []string{"PG_PORT=hunter2", "LOG_LEVEL=hunter2"}, args...)
		r.want(t, exitUsage, "", "LOG_LEVEL: must be")
		r.want(t, exitUsage, "", "PG_PORT: must be")
		if strings.Contains(r.stderr, "hunter2") {
			t.Errorf("%v: a value is quoted: %s", args, r.stderr)
		}
	}
}

func TestHealthcheckWithoutAWorker(t *testing.T) {
	command(t, []string{"STATE_DIR=" + t.TempDir()}, "healthcheck").want(t, exitFailed, "", "no worker runs here")
	// What is wrong with other settings by now is no fault of a worker that runs.
	command(t, []string{"STATE_DIR=" + t.TempDir(), "DATABASE_URL_FILE=/nowhere", "PG_PORT=x"}, "healthcheck").want(t, exitFailed, "", "no worker runs here")
}

func service(t *testing.T, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func environment(t *testing.T, database *pgtest.Database) []string {
	t.Helper()
	return []string{
		"DATABASE_URL=" + database.URL, "STATE_DIR=" + t.TempDir(), "METRICS_COLLECTION_INTERVAL=200ms", "AGGREGATE_BUDGET=100%",
		"INGEST_HEALTH_URL=" + service(t, 200, `{"counters":{"messages_received":12}}`),
		"EVALUATOR_HEALTH_URL=" + service(t, 503, `{}`),
	}
}

func TestMigrateCommands(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	environ := environment(t, database)
	command(t, environ, "migrate", "status").want(t, exitOK, "00001_worker_tables.sql  pending", "")
	command(t, environ, "migrate", "up").want(t, exitOK, "00001_worker_tables.sql", "")
	command(t, environ, "migrate", "up").want(t, exitOK, "nothing to do", "")
	command(t, environ, "migrate", "down", "--all").want(t, exitOK, "reverted", "")
	command(t, environ, "migrate", "down").want(t, exitOK, "nothing to take back", "")
}

// Whoever migrates as another role gives the worker's own none of the rights that
// takes.
func TestTheSchemaIsMadeByAnotherRole(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	_, login := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	worker := append(environment(t, database), "DATABASE_URL="+login)
	command(t, worker, "migrate", "up").want(t, exitFailed, "", "permission denied")
	command(t, environment(t, database), "migrate", "up").want(t, exitOK, "00001_worker_tables.sql", "")
	command(t, worker, "once", "metrics").want(t, exitFailed, "", "permission denied")
}

func TestShellCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		command(t, nil, "completion", shell).want(t, exitOK, "ops-worker", "")
	}
}

// None of these writes anything, whatever it finds.
func TestWhatOnlyReadsLeavesAnEmptyDatabaseEmpty(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	environ := environment(t, database)
	for _, args := range [][]string{{"migrate", "status"}, {"migrate", "down", "--all"}, {"doctor"}, {"status"}, {"maintenance", "start", "--for", "1h", "--reason", "x"}, {"once", "health", "--dry-run"},
		{"once", "metrics", "--dry-run"}, {"healthcheck"}} {
		command(t, environ, args...)
		if left := pgtest.Rows(t, database.Pool(t), `SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'`); len(left) > 0 {
			t.Errorf("%v leaves %v", args, left)
		}
	}
}

func TestAForeignDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.Exec(t, "CREATE TABLE books (id bigint)")
	environ := environment(t, database)
	for _, args := range [][]string{{"run"}, {}, {"migrate", "up"}, {"once", "health"}} {
		r := command(t, environ, args...)
		r.want(t, exitUsage, "", "--any-database")
		if strings.Contains(r.stdout, "nothing to do") {
			t.Errorf("%v: %s", args, r.stdout)
		}
	}
	command(t, environ, "once", "metrics", "--any-database").want(t, exitOK, "messages_received", "")
}

// A command does not wait for the platform's migrator: it fails and says why.
func TestWithoutTheMigratorsExtensionCommandsFail(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.OfferTimescale(t)
	environ := environment(t, database)
	for _, args := range [][]string{{"migrate", "up"}, {"once", "health"}, {"once", "metrics"}} {
		command(t, environ, args...).want(t, exitFailed, "", "the platform's migrator has not run")
	}
	command(t, environ, "migrate", "up", "--any-database").want(t, exitOK, "00001_worker_tables.sql", "")
}

// In the place of the platform's own worker nothing starts, and every command that
// examines it still works.
func TestThePlatformsWorkerIsNotReplacedUnasked(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=postgres://iot:hunter2@127.0.0.1:1/iotcloud", "STATE_DIR=" + t.TempDir(), "S3_ENDPOINT=http://minio:9000", "OTA_BUCKET=x"}
	for _, args := range [][]string{{"run"}, {}} {
		r := command(t, environ, args...)
		r.want(t, exitUsage, "", "(its settings are here: OTA_BUCKET, S3_ENDPOINT)")
		r.want(t, exitUsage, "", "REPLACE_PLATFORM_WORKER=true")
	}
	command(t, environ, "doctor").want(t, exitUsage, "the platform's own ops_worker", "")
}

func TestMigrateTellsWhatFailed(t *testing.T) {
	t.Parallel()
	away := []string{"DATABASE_URL=postgres://iot:hunter2@127.0.0.1:1/iotcloud"}
	for _, direction := range []string{"up", "down"} {
		r := command(t, away, "migrate", direction)
		r.want(t, exitFailed, "", "connection refused")
		if r.stdout != "" {
			t.Errorf("%s: %s", direction, r.stdout)
		}
	}
	database := pgtest.New(t)
	database.Exec(t, "DROP TABLE telemetry; CREATE DOMAIN telemetry AS integer") // in the way
	command(t, environment(t, database), "migrate", "up").want(t, exitFailed, "failed", "telemetry could not be made")
	database.Exec(t, `INSERT INTO ops_worker_lease (name, holder, epoch, acquired_at, expires_at, ttl)
		VALUES ('ops_worker', 'the leader', 1, now(), now() + interval '1 hour', '1 hour')`)
	command(t, environment(t, database), "migrate", "down").want(t, exitFailed, "", "the leader collects into these tables")
	command(t, environment(t, database), "migrate", "down", "--force").want(t, exitOK, "reverted", "")
}

func TestOnceFailsWithAnAggregate(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "ALTER TABLE device_state RENAME COLUMN status TO state_of_it")
	command(t, environment(t, database), "once", "metrics").want(t, exitFailed, "alerts_open", "aggregates that failed, whose samples are missing: devices")
}

func TestOnlyYesIsYes(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "YES\n": true, "\n": false, "": false, "no\n": false, "yep\n": false} {
		if got := confirmed(t.Context(), strings.NewReader(answer), &bytes.Buffer{}, "?"); got != want {
			t.Errorf("confirmed(%q) = %t", answer, got)
		}
	}
	nobody, silent := io.Pipe()
	defer silent.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if confirmed(ctx, nobody, &bytes.Buffer{}, "?") {
		t.Error("a signal is taken for yes")
	}
}

func TestOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	environ := environment(t, database)
	command(t, environ, "once", "health").want(t, exitOK, "HTTP 503", "")
	command(t, environ, "once", "metrics").want(t, exitOK, "messages_received            12", "")

	r := command(t, environ, "once", "metrics", "--json")
	var samples []struct {
		Metric  string `json:"metric_name"`
		Service string
		Value   float64
	}
	if err := json.Unmarshal([]byte(r.stdout), &samples); err != nil || len(samples) == 0 {
		t.Errorf("%d samples, %v: %s", len(samples), err, r.stdout)
	}
	pool := database.Pool(t)
	count := func() (n int) {
		t.Helper()
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM system_metrics").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 2*len(samples) {
		t.Errorf("two cycles stored %d samples, want %d", n, 2*len(samples))
	}
	command(t, environ, "once", "metrics", "--dry-run").want(t, exitOK, "messages_received", "")
	database.Exec(t, "UPDATE ops_worker_lease SET holder = 'the leader', epoch = 99, expires_at = now() + interval '1 hour', ttl = '2 hours'")
	command(t, environ, "once", "metrics").want(t, exitOK, "messages_received", "the leader collects, so nothing was stored")
	if n := count(); n != 2*len(samples) {
		t.Errorf("%d samples stand after a dry run and one without the lease, want %d still", n, 2*len(samples))
	}
}

func TestOnceFailsWithTheDatabase(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=postgres://iot:hunter2@127.0.0.1:1/iotcloud", "STATE_DIR=" + t.TempDir()}
	r := command(t, environ, "once", "metrics")
	r.want(t, exitFailed, "", "connection refused")
	if strings.Contains(r.stdout+r.stderr, "hunter2") {
		t.Errorf("the password is out: %s", r.stderr)
	}
}

func TestRunUntilItIsStopped(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	environ := append(environment(t, database), "SPOOL_DIR="+t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	var log logtest.Log
	status := make(chan int)
	go func() { status <- execute(ctx, []string{"run"}, environ, &log, &log) }()
	pgtest.Eventually(t, "the health check succeeds", func() bool { return command(t, environ, "healthcheck").status == exitOK })
	pgtest.Eventually(t, "the worker leads", func() bool { return strings.Contains(log.String(), "this replica collects") })
	stop()
	if got := <-status; got != exitOK {
		t.Errorf("status %d: %s", got, log.String())
	}
	command(t, environ, "healthcheck").want(t, exitFailed, "", "no worker runs here")
	for line := range strings.Lines(log.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("line is not JSON: %s", line)
		}
		for _, name := range []string{"ts", "level", "service", "msg"} {
			if fields[name] == nil {
				t.Errorf("%s is not in %s", name, line)
			}
		}
	}
	if !strings.Contains(log.String(), "lease handed back") {
		t.Errorf("log: %s", log.String())
	}
}

// freeAddress is an address that nothing listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	return socket.Addr().String()
}

// get is the status and the body of an answer; 0 without one.
func get(address, path string) (int, string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(body)
}

// What a leader and a standby say of themselves, with a database and without.
func TestRunServesHTTP(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	leader, standby := freeAddress(t), freeAddress(t)
	var log logtest.Log
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer running.Wait()
	defer stop()
	start := func(environ ...string) {
		running.Go(func() { execute(ctx, []string{"run"}, environ, &log, &log) })
	}
	ready := func(address string) func() bool {
		return func() bool { status, _ := get(address, "/ready"); return status == http.StatusOK }
	}
	start(append(environment(t, database), "HTTP_ADDR="+leader)...)
	pgtest.Eventually(t, "the leader is ready", ready(leader))
	start(append(environment(t, database), "HTTP_ADDR="+standby)...)
	pgtest.Eventually(t, "the standby is ready", ready(standby))
	pgtest.Eventually(t, "each says what it is", func() bool {
		_, one := get(leader, "/metrics")
		_, other := get(standby, "/metrics")
		return strings.Contains(one, "\nops_worker_lease_held 1\n") && strings.Contains(one, "\nops_worker_lease_epoch 1\n") &&
			strings.Contains(one, `ops_worker_service_state{monitored="evaluator",state="degraded"} 1`) &&
			strings.Contains(one, `ops_worker_cycles_total{loop="store"}`) && !strings.Contains(one, "\nops_worker_stored_samples_total 0\n") &&
			strings.Contains(other, "\nops_worker_lease_held 0\n") && strings.Contains(other, "\nops_worker_stored_samples_total 0\n")
	})
	if status, body := get(leader, "/health"); status != http.StatusOK {
		t.Errorf("/health: %d %s", status, body)
	}

	away := freeAddress(t)
	start("DATABASE_URL=postgres://iot:hunter2@127.0.0.1:1/iotcloud", "STATE_DIR="+t.TempDir(), "HTTP_ADDR="+away)
	pgtest.Eventually(t, "without a database it is healthy and not ready", func() bool {
		health, _ := get(away, "/health")
		ready, reason := get(away, "/ready")
		return health == http.StatusOK && ready == http.StatusServiceUnavailable && strings.Contains(reason, "the lease has not been read yet")
	})
	_, metrics := get(away, "/metrics")
	if strings.Contains(metrics+log.String(), "hunter2") {
		t.Error("the password is out")
	}
}

func TestRunWaitsForADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=postgres://iot:hunter2@127.0.0.1:1/iotcloud", "STATE_DIR=" + t.TempDir()}
	ctx, stop := context.WithCancel(t.Context())
	var log logtest.Log
	status := make(chan int)
	go func() { status <- execute(ctx, []string{"run"}, environ, &log, &log) }()
	pgtest.Eventually(t, "it says that it waits", func() bool { return strings.Contains(log.String(), "database is not ready") })
	command(t, environ, "healthcheck").want(t, exitOK, "", "") // a restart would not help
	stop()
	if got := <-status; got != exitOK {
		t.Errorf("status %d", got)
	}
	if lines := slices.Collect(strings.Lines(log.String())); len(lines) != 3 || strings.Contains(log.String(), "hunter2") {
		t.Errorf("log: %s", log.String())
	}
}

// Without its disk the worker goes on, and says so.
func TestADiskThatCannotBeUsedIsNoReasonNotToMonitor(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"SPOOL_DIR", "STATE_DIR"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.NewEmpty(t)
			environ := append(environment(t, database), name+"=/dev/null/directory")
			ctx, stop := context.WithCancel(t.Context())
			var log logtest.Log
			status := make(chan int)
			go func() { status <- execute(ctx, []string{"run"}, environ, &log, &log) }()
			pool := database.Pool(t)
			pgtest.Eventually(t, "cycles are stored", func() bool {
				return len(pgtest.Rows(t, pool, "SELECT FROM pg_tables WHERE tablename = 'system_metrics'")) == 1 && pgtest.Count(t, pool, "SELECT count(*) FROM system_metrics") > 0
			})
			if got := command(t, environ, "healthcheck").status; (got == exitOK) != (name == "SPOOL_DIR") {
				t.Errorf("healthcheck: status %d", got)
			}
			stop()
			if got := <-status; got != exitOK || !strings.Contains(log.String(), name) {
				t.Errorf("status %d: %s", got, log.String())
			}
		})
	}
}

func TestDebugIsALineACycleAndAStore(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	r := command(t, append(environment(t, database), "LOG_LEVEL=DEBUG"), "once", "metrics")
	for _, message := range []string{`"msg":"cycle gathered"`, `"msg":"cycles stored"`, `"msg":"schema change"`} {
		if !strings.Contains(r.stderr, message) {
			t.Errorf("%s is not in %s", message, r.stderr)
		}
	}
	if quiet := command(t, environment(t, pgtest.NewEmpty(t)), "once", "metrics"); strings.Count(quiet.stderr, "\n") > 4 {
		t.Errorf("a first start logs %s", quiet.stderr)
	}
}

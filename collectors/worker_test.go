package collectors

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/logtest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/spool"
)

// simulated is a platform service that answers with counters.
func simulated(t *testing.T, counters string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"status":"healthy","counters":%s}`, counters)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func workerConfig(t *testing.T, url string, settings ...string) config.Config {
	t.Helper()
	// With a shorter interval a machine under load would miss the deadlines of
	// the aggregates, and rightly store cycles without them.
	cfg, err := config.FromEnvironment(append([]string{
		"DATABASE_URL=" + url, "METRICS_COLLECTION_INTERVAL=1s", "AGGREGATE_BUDGET=100%", "PG_POOL_MAX=4",
		"INGEST_HEALTH_URL=" + simulated(t, contracttest.Answers["ingest"]),
		"EVALUATOR_HEALTH_URL=" + simulated(t, contracttest.Answers["evaluator"]),
		"STATE_DIR=" + t.TempDir(),
	}, settings...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// startWorker runs a whole worker until the test ends or stop is called.
func startWorker(t *testing.T, cfg config.Config, log zerolog.Logger) (stop func()) {
	t.Helper()
	pool, err := db.Open(t.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName))
	if err != nil {
		t.Fatal(err)
	}
	worker := NewWorker(Options{Config: cfg, Pool: pool, Buffer: spool.NewMemory(cfg.BufferCycles), Log: log})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := worker.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		pool.Close()
	})
	t.Cleanup(stop)
	return stop
}

// wantNoErrors fails the test where a worker has logged an error, but for cycles
// that a loaded machine makes late.
func wantNoErrors(t *testing.T, log *logtest.Log) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, `"level":"error"`) && !strings.Contains(line, "cycle overran its interval") {
			t.Errorf("log: %s", line)
		}
	}
}

// wantWholeCycles fails the test where a cycle has other series than another, but for
// those of a minute.
func wantWholeCycles(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	cycles := pgtest.Rows(t, pool, `SELECT DISTINCT string_agg(service || ' ' || metric_name, ', ' ORDER BY service, metric_name)
		FROM system_metrics WHERE service || ' ' || metric_name <> ALL ('{`+strings.Join(contracttest.NotInEveryCycle(), ",")+`}') GROUP BY time`)
	if len(cycles) != 1 {
		t.Errorf("cycles have other samples than others: %q", cycles)
	}
}

// The samples of a minute's first cycle are the contract's, no more and no less.
func TestTheSamplesOfACycle(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, contracttest.Seed)
	cfg := workerConfig(t, database.URL, "METRICS_COLLECTION_INTERVAL=60s")
	pool := database.Pool(t)
	worker := NewWorker(Options{Config: cfg, Pool: pool, Buffer: spool.NewMemory(1), Log: zerolog.Nop()})
	if _, _, _, err := worker.OnceMetrics(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	got, tables := map[string]float64{}, 0
	for _, s := range worker.metrics.gatherer.last.Samples {
		got[fmt.Sprintf("%q, %q", s.Service, s.Metric)] = s.Value
		if s.Metric == "table_bytes" {
			tables++
		} else if s.Tags != "{}" {
			t.Errorf("tags of %s: %q", s.Metric, s.Tags)
		}
	}
	if tables != 10 {
		t.Errorf("%d tables, want the ten largest", tables)
	}
	for _, want := range contracttest.FirstSamples() {
		name := fmt.Sprintf("%q, %q", want.Service, want.Metric)
		value, ok := got[name]
		if !ok {
			t.Errorf("there is no sample {%s}, which internal/contracttest/contracttest.go lists", name)
		} else if value != want.Value && want.Value != -1 {
			t.Errorf("sample {%s} is %g, want %g", name, value, want.Value)
		}
		delete(got, name)
	}
	for name, value := range got {
		t.Errorf("a sample that the tests do not know: add the line\n\t{%s, %g},\nto a list in internal/contracttest/contracttest.go, with the value that Seed and Answers there give it", name, value)
	}
}

func TestAWorkerWritesTheWholeContractOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	var log logtest.Log
	stop := startWorker(t, workerConfig(t, database.URL), log.Logger())
	pool := database.Pool(t)
	pgtest.Eventually(t, "three cycles are stored", func() bool {
		return pgtest.Count(t, pool, "SELECT count(*) FROM pg_tables WHERE tablename = 'system_metrics'") == 1 &&
			pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= 3 && pgtest.Count(t, pool, "SELECT count(*) FROM service_health") == 3
	})
	stop()
	wantWholeCycles(t, pool)
	pgtest.WantRows(t, pool, "SELECT count(*) - count(DISTINCT (time, metric_name, service, tags)) FROM system_metrics", "0")
	pgtest.WantRows(t, pool, "SELECT service, status FROM service_health ORDER BY 1", "evaluator healthy", "ingest healthy", "postgres healthy")
	pgtest.WantRows(t, pool, "SELECT expires_at <= clock_timestamp() FROM ops_worker_lease", "true")
	wantNoErrors(t, &log)
}

func TestTwoWorkersWriteAsOne(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	cfg := workerConfig(t, database.URL)
	first := startWorker(t, cfg, zerolog.Nop())
	second := startWorker(t, cfg, zerolog.Nop())
	cycles := func() int { return pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") }
	pgtest.Eventually(t, "cycles are stored", func() bool { return cycles() >= 3 })
	pgtest.WantRows(t, pool, "SELECT count(DISTINCT holder), max(epoch) FROM ops_worker_lease", "1 1")
	before := cycles()
	first() // whichever led: the other goes on
	pgtest.Eventually(t, "the other one stores cycles", func() bool { return cycles() >= before+3 })
	second()
	pgtest.WantRows(t, pool, "SELECT count(*) - count(DISTINCT (time, metric_name, service, tags)) FROM system_metrics", "0")
}

func TestATableThatIsDroppedAndMadeAgainWhileTheWorkerRuns(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	var log logtest.Log
	startWorker(t, workerConfig(t, database.URL), log.Logger())
	pool := database.Pool(t)
	newest := func(metric string) bool {
		return pgtest.Count(t, pool, `SELECT count(*) FROM system_metrics WHERE metric_name = '`+metric+`'
			AND time = (SELECT last_cycle_at FROM ops_worker_lease)`) == 1
	}
	pgtest.Eventually(t, "devices are counted", func() bool { return newest("devices_online") })
	database.Exec(t, "CREATE TABLE kept (LIKE device_state INCLUDING ALL); DROP TABLE device_state")
	pgtest.Eventually(t, "devices are not counted, alerts are", func() bool { return !newest("devices_online") && newest("alerts_open") })
	failed := func() []map[string]any { // of those that read the table, the one of every cycle
		return slices.DeleteFunc(log.Lines(t, "aggregate failed, its samples are missing"), func(line map[string]any) bool { return line["aggregate"] != "devices" })
	}
	pgtest.Eventually(t, "the log names the table", func() bool {
		lines := failed()
		return len(lines) == 1 && strings.Contains(fmt.Sprint(lines[0]["error"]), "device_state")
	})
	// Made anew, it has none of the old one's grants.
	database.Exec(t, "CREATE TABLE device_state (LIKE kept INCLUDING ALL)")
	pgtest.Eventually(t, "devices are counted again", func() bool { return newest("devices_online") })
	if n := len(failed()); n != 1 {
		t.Errorf("%d lines say that it was missing, want 1", n)
	}
}

func TestAWorkerThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{
		"one server for all":    "default_pool_size = 1",
		"a server a statement":  "default_pool_size = 4\nserver_round_robin = 1",
		"as the platform's own": "server_reset_query = DISCARD ALL",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.NewEmpty(t)
			bouncer := pgtest.NewPgBouncer(t, database.URL, "transaction", settings)
			var log logtest.Log
			stop := startWorker(t, workerConfig(t, bouncer.URL), log.Logger())
			pool := database.Pool(t)
			pgtest.Eventually(t, "cycles are stored", func() bool {
				return pgtest.Count(t, pool, "SELECT count(*) FROM pg_tables WHERE tablename = 'system_metrics'") == 1 &&
					pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= 3
			})
			stop()
			wantWholeCycles(t, pool)
			wantNoErrors(t, &log)
		})
	}
}

// A leader whose stores fail is not ready after three intervals, and one that
// stores again is.
func TestALeaderIsReadyWhileItStores(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	cfg := workerConfig(t, database.URL, "METRICS_COLLECTION_INTERVAL=200ms")
	pool := database.Pool(t)
	worker := NewWorker(Options{Config: cfg, Pool: pool, Buffer: spool.NewMemory(1000), Log: zerolog.Nop()})
	if err := worker.Ready(); err == nil || !strings.Contains(err.Error(), "has not been read") {
		t.Errorf("before the start: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = worker.Run(ctx) }) // the database is the platform's
	defer running.Wait()
	defer cancel()
	pgtest.Eventually(t, "ready", func() bool { return worker.Ready() == nil && worker.Lease.Status().Leading })
	database.Exec(t, "ALTER TABLE system_metrics ADD CONSTRAINT full_up CHECK (value IS NULL) NOT VALID")
	pgtest.Eventually(t, "not ready", func() bool { return worker.Ready() != nil })
	if err := worker.Ready(); err != nil && !strings.Contains(err.Error(), "the newest store that succeeded is") {
		t.Error(err)
	}
	database.Exec(t, "ALTER TABLE system_metrics DROP CONSTRAINT full_up")
	pgtest.Eventually(t, "ready again", func() bool { return worker.Ready() == nil })
}

// A worker that stores asks for HEARTBEAT_URL, and tells ALERT_WEBHOOK_URL of an alert.
func TestAWorkerTellsWhoeverTheSettingsName(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	came := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		came <- r.Method + r.URL.Path + string(body)
	}))
	defer server.Close()
	secret := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(secret, []byte(server.URL+"/hook\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := startWorker(t, workerConfig(t, database.URL, "HEARTBEAT_URL="+server.URL+"/beat", "ALERT_WEBHOOK_URL_FILE="+secret,
		"HEALTH_SERVICES=web=tcp://127.0.0.1:1"), zerolog.Nop())
	defer stop()
	wanted := []string{"GET/beat", `POST/hook{"event":"opened","service":"web"`}
	for len(wanted) > 0 {
		select {
		case request := <-came:
			wanted = slices.DeleteFunc(wanted, func(want string) bool { return strings.HasPrefix(request, want) })
		case <-time.After(30 * time.Second):
			t.Fatalf("%q did not come", wanted)
		}
	}
}

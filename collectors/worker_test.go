package collectors

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/pgtest"
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
	cfg, err := config.FromEnvironment(append([]string{
		"DATABASE_URL=" + url, "METRICS_COLLECTION_INTERVAL=200ms", "PG_POOL_MAX=4",
		"INGEST_HEALTH_URL=" + simulated(t, `{"messages_received":10,"messages_written":9,"queue_depth":1}`),
		"EVALUATOR_HEALTH_URL=" + simulated(t, `{"rules_evaluated":4,"alerts_created":2}`),
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
	pool, err := db.Open(t.Context(), cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	worker := NewWorker(cfg, pool, NewMemoryBuffer(cfg.BufferCycles), NoHeart, log)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { worker.Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		worker.Close()
		pool.Close()
	})
	t.Cleanup(stop)
	return stop
}

func countOf(t *testing.T, pool *pgxpool.Pool, sql string) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAWorkerWritesTheWholeContractOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	var log capturedLog
	stop := startWorker(t, workerConfig(t, database.URL), log.logger())
	pool := database.Pool(t)
	eventually(t, "five cycles are stored", func() bool {
		return countOf(t, pool, "SELECT count(*) FROM pg_tables WHERE tablename = 'system_metrics'") == 1 &&
			countOf(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= 5 && countOf(t, pool, "SELECT count(*) FROM service_health") == 3
	})
	stop()
	wantRows(t, pool, "SELECT DISTINCT service, metric_name FROM system_metrics ORDER BY 1, 2",
		"evaluator alerts_created", "evaluator healthy", "evaluator rules_evaluated",
		"ingest healthy", "ingest messages_received", "ingest messages_rejected", "ingest messages_written", "ingest queue_depth",
		"platform alerts_open", "platform deliveries_pending", "platform devices_online", "platform devices_stale",
		"postgres connections", "postgres db_size_bytes", "postgres healthy")
	wantRows(t, pool, "SELECT DISTINCT count(*) FROM system_metrics GROUP BY time", "15")
	wantRows(t, pool, "SELECT count(*) - count(DISTINCT (time, metric_name, service)) FROM system_metrics", "0")
	wantRows(t, pool, "SELECT service, status FROM service_health ORDER BY 1", "evaluator healthy", "ingest healthy", "postgres healthy")
	wantRows(t, pool, "SELECT expires_at <= clock_timestamp() FROM ops_worker_lease", "true")
	if n := strings.Count(log.buf.String(), `"level":"error"`); n != 0 {
		t.Errorf("the log holds %d errors: %s", n, log.buf.String())
	}
}

func TestTwoWorkersWriteAsOne(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	cfg := workerConfig(t, database.URL)
	first := startWorker(t, cfg, zerolog.Nop())
	second := startWorker(t, cfg, zerolog.Nop())
	cycles := func() int { return countOf(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") }
	eventually(t, "cycles are stored", func() bool { return cycles() >= 5 })
	wantRows(t, pool, "SELECT count(DISTINCT holder), max(epoch) FROM ops_worker_lease", "1 1")
	before := cycles()
	first() // whichever led: the other goes on
	eventually(t, "the other one stores cycles", func() bool { return cycles() >= before+5 })
	second()
	wantRows(t, pool, "SELECT count(*) - count(DISTINCT (time, metric_name, service)) FROM system_metrics", "0")
}

func TestATableThatIsDroppedAndMadeAgainWhileTheWorkerRuns(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	var log capturedLog
	startWorker(t, workerConfig(t, database.URL), log.logger())
	pool := database.Pool(t)
	newest := func(metric string) bool {
		return countOf(t, pool, `SELECT count(*) FROM system_metrics WHERE metric_name = '`+metric+`'
			AND time = (SELECT last_cycle_at FROM ops_worker_lease)`) == 1
	}
	eventually(t, "devices are counted", func() bool { return newest("devices_online") })
	database.Exec(t, "CREATE TABLE kept (LIKE device_state INCLUDING ALL); DROP TABLE device_state")
	eventually(t, "devices are not counted, alerts are", func() bool { return !newest("devices_online") && newest("alerts_open") })
	eventually(t, "the log names the table", func() bool {
		lines := log.lines(t, "aggregate failed, its samples are missing")
		return len(lines) == 1 && strings.Contains(fmt.Sprint(lines[0]["error"]), "device_state")
	})
	// Made anew, it has none of the old one's grants.
	database.Exec(t, "CREATE TABLE device_state (LIKE kept INCLUDING ALL)")
	eventually(t, "devices are counted again", func() bool { return newest("devices_online") })
	if n := len(log.lines(t, "aggregate failed, its samples are missing")); n != 1 {
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
			var log capturedLog
			stop := startWorker(t, workerConfig(t, bouncer.URL), log.logger())
			pool := database.Pool(t)
			eventually(t, "cycles are stored", func() bool {
				return countOf(t, pool, "SELECT count(*) FROM pg_tables WHERE tablename = 'system_metrics'") == 1 &&
					countOf(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= 5
			})
			stop()
			wantRows(t, pool, "SELECT DISTINCT count(*) FROM system_metrics GROUP BY time", "15")
			if strings.Contains(log.buf.String(), `"level":"error"`) {
				t.Errorf("log: %s", log.buf.String())
			}
		})
	}
}

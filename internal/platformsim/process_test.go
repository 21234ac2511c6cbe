package platformsim

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/pgtest"
)

func TestJobs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		source string
		want   []string
	}{
		"empty": {"", nil},
		"awaited starts": {`
from jobs import health_monitor
# await health_monitor.start()
async def lifespan(app):
    await app.state.batch_writer.start()
    await metrics_collector.start()
    await metrics_collector.stop()
`, []string{"batch_writer", "metrics_collector"}},
		"gather": {`
run_before(pool),
    await asyncio.gather(
        run_health_monitor(pool),
        # run_metrics_collector(pool),
        exports(pool, every=60),
    )
run_after(pool),
`, []string{"health_monitor", "exports"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := Jobs(test.source); !slices.Equal(got, test.want) {
				t.Errorf("jobs %q, want %q", got, test.want)
			}
		})
	}
}

// TestRunJobs looks for what each job leaves, of a service that answers and one
// that does not.
func TestRunJobs(t *testing.T) {
	t.Parallel()
	ingest := httptest.NewServer(mustNew(t, "ingest"))
	defer ingest.Close()
	database := pgtest.New(t)
	pool := database.Pool(t)
	cfg, err := config.FromEnvironment([]string{
		"DATABASE_URL=" + database.URL, "INGEST_HEALTH_URL=" + ingest.URL, "EVALUATOR_HEALTH_URL=http://127.0.0.1:1",
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.MetricsInterval, cfg.HealthInterval = 10*time.Millisecond, 10*time.Millisecond
	if err := PrepareBeats(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		RunJobs(ctx, pool, cfg, []string{HealthMonitor, MetricsCollector, "exports"})
	}()
	for what, query := range map[string]string{
		"the service that answers":       "SELECT 1 FROM system_metrics WHERE service = 'ingest' AND metric_name = 'messages_received' AND value > 0",
		"the service that does not":      "SELECT 1 FROM system_metrics WHERE service = 'evaluator' AND metric_name = 'healthy' AND value = 0",
		"the database":                   "SELECT 1 FROM system_metrics WHERE service = 'postgres' AND metric_name = 'connections'",
		"the platform":                   "SELECT 1 FROM system_metrics WHERE service = 'platform' AND metric_name = 'devices_online'",
		"health of what answers":         "SELECT 1 FROM service_health WHERE service = 'ingest' AND status = 'healthy'",
		"health of what does not answer": "SELECT 1 FROM service_health WHERE service = 'evaluator' AND status = 'unhealthy'",
		"another job":                    "SELECT 1 FROM platform_sim_beats WHERE job = 'exports'",
	} {
		pgtest.Eventually(t, what, func() bool { return len(pgtest.Rows(t, pool, query)) > 0 })
	}
	stop()
	<-ended
}

func TestHealthOfAProcess(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{"/health": http.StatusOK, "/ready": http.StatusOK, "/metrics": http.StatusNotFound} {
		recorder := httptest.NewRecorder()
		Health().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		if recorder.Code != want {
			t.Errorf("%s: status %d, want %d", path, recorder.Code, want)
		}
	}
}

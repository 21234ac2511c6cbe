package platformsim

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// ask sends GET /health to a service, without a network.
func ask(t *testing.T, service http.Handler) (status int, body map[string]any) {
	t.Helper()
	recorder := httptest.NewRecorder()
	service.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
	if got := recorder.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &body); err != nil {
		t.Fatalf("read %q: %v", recorder.Body, err)
	}
	return recorder.Code, body
}

func mustNew(t *testing.T, name string) *Service {
	t.Helper()
	service, err := New(name)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

func TestShape(t *testing.T) {
	t.Parallel()
	for _, want := range played() {
		t.Run(want.Name, func(t *testing.T) {
			t.Parallel()
			status, body := ask(t, mustNew(t, want.Name))
			if status != http.StatusOK || body["status"] != "healthy" {
				t.Errorf("answered %d, %v", status, body["status"])
			}
			counters, _ := body["counters"].(map[string]any)
			if len(counters) != len(want.Counters) {
				t.Errorf("counters %v, want %v", counters, want.Counters)
			}
			for _, c := range want.Counters {
				if value, ok := counters[c.Name].(float64); !ok || value < 0 {
					t.Errorf("counter %s is %v", c.Name, counters[c.Name])
				}
			}
		})
	}
}

func TestCountersMoveAndTotalsNeverFall(t *testing.T) {
	t.Parallel()
	for _, service := range played() {
		t.Run(service.Name, func(t *testing.T) {
			t.Parallel()
			before := map[string]int64{}
			changed := map[string]bool{}
			for seconds := 0.0; seconds < 3600; seconds += 0.7 {
				now := numbers(service.Counters, seconds)
				for _, c := range service.Counters {
					if now[c.Name] < 0 || now[c.Name] < before[c.Name] && !c.Gauge {
						t.Fatalf("after %.1f s %s went from %v to %v", seconds, c.Name, before[c.Name], now[c.Name])
					}
					changed[c.Name] = changed[c.Name] || now[c.Name] != before[c.Name]
					before[c.Name] = now[c.Name]
				}
			}
			for name := range before {
				if !changed[name] {
					t.Errorf("%s stood still for an hour", name)
				}
			}
		})
	}
}

func TestOutage(t *testing.T) {
	t.Parallel()
	service := mustNew(t, "ingest")
	for _, out := range []bool{false, true, false} {
		service.SetOutage(out)
		want := http.StatusOK
		if out {
			want = http.StatusServiceUnavailable
		}
		if got, _ := ask(t, service); got != want {
			t.Errorf("outage %v: status %d, want %d", out, got, want)
		}
	}
}

func TestOutageByRequest(t *testing.T) {
	t.Parallel()
	service := mustNew(t, "evaluator")
	for _, step := range []struct {
		method string
		want   int
	}{{http.MethodPost, http.StatusServiceUnavailable}, {http.MethodDelete, http.StatusOK}} {
		recorder := httptest.NewRecorder()
		service.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), step.method, "/outage", nil))
		if recorder.Code != http.StatusNoContent {
			t.Errorf("%s: status %d", step.method, recorder.Code)
		}
		if got, _ := ask(t, service); got != step.want {
			t.Errorf("after %s: status %d, want %d", step.method, got, step.want)
		}
	}
}

func TestOtherRequests(t *testing.T) {
	t.Parallel()
	service := mustNew(t, "evaluator")
	for request, want := range map[string]int{
		"GET /":        http.StatusNotFound,
		"POST /health": http.StatusMethodNotAllowed,
		"GET /outage":  http.StatusMethodNotAllowed,
	} {
		method, path, _ := strings.Cut(request, " ")
		recorder := httptest.NewRecorder()
		service.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		if recorder.Code != want {
			t.Errorf("%s: status %d, want %d", request, recorder.Code, want)
		}
	}
}

func TestUnknownService(t *testing.T) {
	t.Parallel()
	if _, err := New("mainframe"); err == nil || !strings.Contains(err.Error(), strings.Join(Names(), ", ")) {
		t.Errorf("error %v does not name the services that exist", err)
	}
}

func TestServeStopsWithItsContext(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, listener, mustNew(t, "ingest")) }()

	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	response, err := client.Get("http://" + listener.Addr().String() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d", response.StatusCode)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestServeFailsOnAClosedListener(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := Serve(t.Context(), listener, mustNew(t, "ingest")); err == nil {
		t.Error("served on a closed listener")
	}
}

// census counts the rows that Seed makes, and what the worker's aggregates see of them.
const census = `
SELECT json_build_object(
    'tenants', (SELECT count(*) FROM tenants WHERE tenant_id LIKE 'demo-%'),
    'devices', (SELECT count(*) FROM device_registry),
    'states', (SELECT count(*) FROM device_state),
    'online', (SELECT count(*) FROM device_state WHERE status = 'ONLINE'),
    'stale', (SELECT count(*) FROM device_state WHERE status = 'STALE'),
    'alerts', (SELECT count(*) FROM fleet_alert),
    'alert statuses', (SELECT count(DISTINCT status) FROM fleet_alert),
    'rules', (SELECT count(*) FROM alert_rules),
    'integrations', (SELECT count(*) FROM integrations),
    'jobs', (SELECT count(*) FROM delivery_jobs),
    'pending', (SELECT count(*) FROM delivery_jobs WHERE status = 'PENDING'),
    'telemetry', (SELECT count(*) FROM telemetry WHERE time >= now() - interval '60 seconds'))`

func TestSeedTwiceAndMove(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	count := func() map[string]int {
		t.Helper()
		var got map[string]int
		if err := pool.QueryRow(t.Context(), census).Scan(&got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	if err := Seed(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	first := count()
	for what, want := range map[string]int{
		"tenants": 4, "devices": 200, "states": 192, "alerts": 15, "alert statuses": 3, "rules": 3, "integrations": 3,
		"jobs": 20, "pending": 5,
	} {
		if first[what] != want {
			t.Errorf("%d %s, want %d", first[what], what, want)
		}
	}
	for _, what := range []string{"online", "stale", "telemetry"} {
		if first[what] == 0 {
			t.Errorf("no %s", what)
		}
	}
	if err := Seed(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	second := count()
	delete(first, "telemetry") // counted over the last minute, which has moved on
	for what, want := range first {
		if second[what] != want {
			t.Errorf("seeded twice: %d %s, want %d", second[what], what, want)
		}
	}
	for range 2 {
		if err := Move(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	moved := count()
	if online := moved["online"]; online < 80 || online > 180 {
		t.Errorf("%d devices are online after a move", online)
	}
}

func TestAwaitTablesGivesUp(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewEmpty(t).Pool(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	cancel(reason)
	if err := AwaitTables(ctx, pool); !errors.Is(err, reason) {
		t.Errorf("ended with %v, want %v", err, reason)
	}
}

func TestTheFleetWaitsForItsTablesAndMoves(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	pool := database.Pool(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- RunFleet(ctx, pool, 10*time.Millisecond) }()
	if _, err := schema.MigrateUp(t.Context(), pool, false); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, "the fleet is seeded", func() bool { return pgtest.Count(t, pool, "SELECT count(*) FROM device_registry") == 200 })
	before := pgtest.Count(t, pool, "SELECT count(*) FROM telemetry")
	pgtest.Eventually(t, "telemetry comes in", func() bool { return pgtest.Count(t, pool, "SELECT count(*) FROM telemetry") > before })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestSeedNeedsTheTables(t *testing.T) {
	t.Parallel()
	pool := pgtest.NewEmpty(t).Pool(t)
	if err := Seed(t.Context(), pool); err == nil {
		t.Error("seeded an empty database")
	}
	if err := Move(t.Context(), pool); err == nil {
		t.Error("moved an empty database")
	}
}

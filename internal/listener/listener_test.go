package listener

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMetrics() *Metrics {
	return NewMetrics(Source{
		Version: "v1.2.3", Commit: "0123abc", Services: []string{"ingest", "postgres"}, Budget: 0.05, Health: "health", Metrics: "metrics", Store: "store",
		Lease:  func() (bool, int64) { return true, 7 },
		Buffer: func() (int, time.Duration) { return 3, 15 * time.Second },
		Pool:   func() (int, int) { return 4, 3 },
	})
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	Handler(m, nil, nil).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if recorder.Code != http.StatusOK {
		t.Fatalf("status %d: %s", recorder.Code, recorder.Body)
	}
	return recorder.Body.String()
}

func exercise(m *Metrics) {
	m.CycleEnded("health", 200*time.Millisecond, errors.New("x"), 0)
	m.CycleEnded("metrics", 300*time.Millisecond, nil, 2)
	m.CycleEnded("store", 400*time.Millisecond, nil, 0)
	m.Probed([]probe.Observation{{Service: "ingest", Took: 30 * time.Millisecond, Reading: probe.Reading{Status: probe.Down, CertificateEnds: time.Unix(1_800_000_000, 0)}}})
	m.Probed([]probe.Observation{{Service: "postgres", Reading: probe.Reading{Status: probe.Healthy}}})
	m.Aggregated(20 * time.Millisecond)
	m.Counted("devices", 2*time.Second, 100*time.Second, true)
	m.Stored(15)
	m.Dropped(30)
}

// The platform's dashboards and its alerts look for these names.
func TestWhatIsMeasuredIsShown(t *testing.T) {
	m := newMetrics()
	exercise(m)
	text := scrape(t, m)
	for _, line := range []string{
		`pulse_processing_duration_seconds_count{operation="health_monitor",service="ops_worker"} 1`,
		`pulse_processing_duration_seconds_sum{operation="metrics_collector",service="ops_worker"} 0.7`,
		`pulse_processing_duration_seconds_bucket{operation="metrics_collector",service="ops_worker",le="0.5"} 0`,
		`pulse_db_pool_size{service="ops_worker"} 4`,
		`pulse_db_pool_free{service="ops_worker"} 3`,
		`ops_worker_cycles_total{loop="metrics"} 1`,
		`ops_worker_cycle_failures_total{loop="health"} 1`,
		`ops_worker_cycle_failures_total{loop="store"} 0`,
		`ops_worker_skipped_ticks_total{loop="metrics"} 2`,
		`ops_worker_probe_duration_seconds_sum{monitored="ingest"} 0.03`,
		`ops_worker_probe_duration_seconds_count{monitored="postgres"} 1`,
		`ops_worker_certificate_expiry_timestamp_seconds{monitored="ingest"} 1800000000` + "\n",
		`ops_worker_service_state{monitored="ingest",state="down"} 1`,
		`ops_worker_service_state{monitored="ingest",state="healthy"} 0`,
		`ops_worker_aggregates_duration_seconds_sum 0.02`,
		`ops_worker_aggregate_failures_total{aggregate="devices"} 1`,
		`ops_worker_aggregate_cost_seconds{aggregate="devices"} 2`,
		`ops_worker_aggregate_interval_seconds{aggregate="devices"} 100`,
		`ops_worker_aggregate_budget_ratio 0.05`,
		`ops_worker_stored_samples_total 15`,
		`ops_worker_dropped_samples_total 30`,
		`ops_worker_lease_held 1`,
		`ops_worker_lease_epoch 7`,
		`ops_worker_buffered_cycles 3`,
		`ops_worker_buffer_age_seconds 15`,
		`ops_worker_build_info{commit="0123abc",goversion="go`,
		`go_goroutines `,
		`process_resident_memory_bytes `,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("there is no %s", line)
		}
	}
	for _, edge := range []string{"0.01", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "+Inf"} {
		short := strings.TrimSuffix(edge, ".0")
		if !strings.Contains(text, `pulse_processing_duration_seconds_bucket{operation="health_monitor",service="ops_worker",le="`+short+`"}`) {
			t.Errorf("there is no bucket %s", edge)
		}
	}
}

// docs/operation.md has every metric of ours with its type and its labels.
func TestTheOperationPageNamesTheMetrics(t *testing.T) {
	content, err := os.ReadFile("../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, _ := strings.Cut(string(content), "| metric | type | labels | |\n")
	page, _, _ = strings.Cut(page, "\n\n")
	m := newMetrics()
	exercise(m)
	shown := 0
	var name, kind string
	for line := range strings.Lines(scrape(t, m)) {
		if fields := strings.Fields(line); len(fields) == 4 && fields[1] == "TYPE" {
			name, kind = fields[2], fields[3]
			continue
		}
		ours := strings.HasPrefix(line, "pulse_") || strings.HasPrefix(line, "ops_worker_")
		if !ours || name == "" {
			continue // go_* and process_*, or another series of the same name
		}
		shown++
		var row string
		for line := range strings.Lines(page) {
			if strings.Contains(line, "`"+name+"`") {
				row = line
			}
		}
		cells := strings.Split(row, "|") // before the first one is nothing
		if len(cells) < 5 || strings.TrimSpace(cells[2]) != kind {
			t.Errorf("%s is a %s, and the page has %q", name, kind, row)
			continue
		}
		for _, label := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(line, -1) {
			if label[1] != "le" && !strings.Contains(cells[3], "`"+label[1]+"`") {
				t.Errorf("%s has the label %s, and the page has %q", name, label[1], row)
			}
		}
		name = ""
	}
	if named := strings.Count(page, "`ops_worker_") + strings.Count(page, "`pulse_"); named != shown {
		t.Errorf("the page names %d metrics, and %d are shown", named, shown)
	}
}

func TestAStandbyKnowsNoStateOfNow(t *testing.T) {
	leading := true
	m := NewMetrics(Source{
		Lease:  func() (bool, int64) { return leading, 7 },
		Buffer: func() (int, time.Duration) { return 0, 0 },
		Pool:   func() (int, int) { return 0, 0 },
	})
	exercise(m)
	if text := scrape(t, m); !strings.Contains(text, "ops_worker_service_state") {
		t.Error(text)
	}
	leading = false
	if text := scrape(t, m); strings.Contains(text, "ops_worker_service_state") {
		t.Error(text)
	}
}

// A store that takes two cycles at once is one of each.
func TestAStoreMayTakeTwoCycles(t *testing.T) {
	m := newMetrics()
	for range 3 {
		m.CycleEnded("metrics", time.Second, nil, 0)
	}
	m.CycleEnded("store", time.Second, nil, 0)
	m.CycleEnded("store", time.Second, nil, 0) // of what an outage left
	if text := scrape(t, m); !strings.Contains(text, `pulse_processing_duration_seconds_sum{operation="metrics_collector",service="ops_worker"} 3`) {
		t.Error(text)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	fault := map[string]error{}
	handler := Handler(newMetrics(), func() error { return fault["/health"] }, func() error { return fault["/ready"] })
	get := func(method, path string) (int, string) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(method, path, nil))
		return recorder.Code, strings.TrimSpace(recorder.Body.String())
	}
	for _, test := range []struct {
		method, path string
		fault        error
		status       int
		body         string
	}{
		{"GET", "/health", nil, 200, `{"status":"healthy"}`},
		{"GET", "/ready", nil, 200, `{"status":"ready"}`},
		{"HEAD", "/ready", nil, 200, `{"status":"ready"}`}, // which the server does not send
		{"GET", "/health", errors.New("loop \"health\" stands\nstill"), 503, `{"status":"not healthy","reason":"loop \"health\" stands still"}`},
		{"GET", "/ready", errors.New("nothing is stored yet"), 503, `{"status":"not ready","reason":"nothing is stored yet"}`},
		{"POST", "/health", nil, 405, "Method Not Allowed"},
		{"GET", "/", nil, 404, "404 page not found"},
		{"GET", "/debug/pprof/", nil, 404, "404 page not found"},
	} {
		fault[test.path] = test.fault
		if status, body := get(test.method, test.path); status != test.status || body != test.body {
			t.Errorf("%s %s: %d %s, want %d %s", test.method, test.path, status, body, test.status, test.body)
		}
		delete(fault, test.path)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// serving serves until the test ends, and returns the log.
func serving(t *testing.T, address string) (log *logtest.Log, stop func()) {
	t.Helper()
	log = &logtest.Log{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		Serve(ctx, address, Handler(newMetrics(), func() error { return nil }, func() error { return nil }), zerolog.New(log))
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return log, stop
}

func freeAddress(t *testing.T) (address string, held net.Listener) {
	t.Helper()
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Close() }) // it may be closed already
	return held.Addr().String(), held
}

// An address that is taken is no reason not to monitor, and is had once it is free.
func TestAnAddressThatIsTaken(t *testing.T) {
	address, held := freeAddress(t)
	log, stop := serving(t, address)
	eventually(t, "it says so", func() bool { return strings.Contains(log.String(), "HTTP cannot be served") })
	if !strings.Contains(log.String(), "HTTP_ADDR: listen tcp "+address) {
		t.Errorf("log: %s", log.String())
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, "it serves", func() bool {
		answer, err := client.Get("http://" + address + "/health")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	stop()
	if _, err := net.DialTimeout("tcp", address, time.Second); err == nil {
		t.Error("it still listens")
	}
}

// A client that sends too much, or nothing, costs itself, and no stop waits for it.
func TestHostileClients(t *testing.T) {
	address, held := freeAddress(t)
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	log, stop := serving(t, address)
	eventually(t, "it serves", func() bool { return strings.Contains(log.String(), "HTTP is served") })
	dial := func(text string) net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := dial(fmt.Sprintf("GET /health HTTP/1.1\r\nHost: x\r\nX-Large: %s\r\n\r\n", strings.Repeat("x", 4*maxHeader)))
	if line, _ := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, " 431 ") {
		t.Errorf("a large header: %q", line)
	}
	const many = 100
	for range many {
		dial("")                               // nothing at all
		dial("GET /health HTTP/1.1\r\nHost: ") // and no more
	}
	for range many { // connections that are kept, too
		conn := dial("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
		if err := conn.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); !strings.Contains(line, " 200 ") {
			t.Fatalf("beside them: %q, %v", line, err)
		}
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the stop took %s", took)
	}
}

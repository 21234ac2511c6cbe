package collectors

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

func detailsOf(t *testing.T, o Observation) map[string]any {
	t.Helper()
	text, err := o.details()
	if err != nil {
		t.Fatal(err)
	}
	var details map[string]any
	if err := json.Unmarshal([]byte(text), &details); err != nil {
		t.Fatal(err)
	}
	return details
}

func TestAHealthyServiceWritesAHealthyRow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"status":"healthy","counters":{"messages_received":12}}`))
	}))
	defer server.Close()
	client := NewHTTPClient()
	defer client.Close()
	store := newFakeStore()
	monitor := NewHealthMonitor([]Service{{Name: "ingest", Probe: client.JSON(server.URL, "/health")}}, store, heldLease(t, store), time.Minute, true)
	if err := monitor.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	row := store.health["ingest"]
	if row.rowStatus() != "healthy" || row.latencyMS() < 0 {
		t.Errorf("row: %+v", row)
	}
	details := detailsOf(t, row)
	if details["status"] != "healthy" || details["http_status"] != 200.0 || details["latency_ms"] == nil || details["error"] != nil {
		t.Errorf("details: %v", details)
	}
	if diff := cmp.Diff(map[string]any{"messages_received": 12.0}, details["counters"]); diff != "" {
		t.Error(diff)
	}
	if len(store.open) != 0 {
		t.Errorf("alerts: %v", store.open)
	}
}

func TestARefusedConnectionWritesAnUnhealthyRow(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // its port is free again, and refuses
	client := NewHTTPClient()
	defer client.Close()
	store := newFakeStore()
	monitor := NewHealthMonitor([]Service{{Name: "ingest", Probe: client.JSON(server.URL, "/health")}}, store, heldLease(t, store), time.Minute, true)
	if err := monitor.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	row := store.health["ingest"]
	if row.rowStatus() != "unhealthy" || row.latencyMS() != -1 {
		t.Errorf("row: %+v", row)
	}
	if diff := cmp.Diff(map[string]any{"status": "down", "error": "connection refused"}, detailsOf(t, row)); diff != "" {
		t.Error(diff)
	}
	if store.open["ingest"] != "connection refused" {
		t.Errorf("alerts: %v", store.open)
	}
}

func TestAnAlertClosesWhenItsServiceRecovers(t *testing.T) {
	store := newFakeStore()
	reading := Reading{Status: Degraded, HTTPStatus: 503, Latency: time.Millisecond}
	probe := func(context.Context) Reading { return reading }
	monitor := NewHealthMonitor([]Service{{Name: "evaluator", Probe: probe}}, store, heldLease(t, store), time.Minute, true)
	for range 2 {
		if err := monitor.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if store.open["evaluator"] != "HTTP 503" {
			t.Fatalf("alerts: %v", store.open)
		}
	}
	reading = Reading{Status: Healthy, HTTPStatus: 200, Latency: time.Millisecond}
	if err := monitor.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.open) != 0 {
		t.Errorf("alerts: %v", store.open)
	}
}

func TestAlertsCanBeTurnedOff(t *testing.T) {
	store := newFakeStore()
	monitor := NewHealthMonitor([]Service{{Name: "evaluator", Probe: answering(Reading{Status: Down})}}, store, heldLease(t, store), time.Minute, false)
	if err := monitor.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.health["evaluator"].Status != Down || len(store.open) != 0 {
		t.Errorf("health %v, alerts %v", store.health, store.open)
	}
}

func TestAlertsThatCannotBeWrittenDoNotCostTheHealthRows(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	store.fail = func(operation string) error {
		if operation == "alerts" {
			return errors.New("no such table")
		}
		return nil
	}
	monitor := NewHealthMonitor([]Service{{Name: "evaluator", Probe: answering(Reading{Status: Down})}}, store, lease, time.Minute, true)
	if err := monitor.Cycle(t.Context()); err == nil {
		t.Error("the cycle should say that the alerts failed")
	}
	if store.health["evaluator"].Status != Down {
		t.Errorf("health: %v", store.health)
	}
}

func TestServicesAreProbedAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := func(ctx context.Context) Reading {
			<-ctx.Done()
			return Reading{Status: Unknown, Err: "no answer within 5s"}
		}
		store := newFakeStore()
		services := []Service{{Name: "a", Probe: hanging}, {Name: "b", Probe: hanging}, {Name: "c", Probe: answering(Reading{Status: Healthy})}}
		monitor := NewHealthMonitor(services, store, heldLease(t, store), time.Minute, true)
		begin := time.Now()
		if err := monitor.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != probeTimeout {
			t.Errorf("two services that hang cost %s, want %s", took, probeTimeout)
		}
		if store.health["a"].Status != Unknown || store.health["c"].Status != Healthy {
			t.Errorf("health: %v", store.health)
		}
	})
}

func TestAProbeThatPanicsCostsItsOwnReading(t *testing.T) {
	store := newFakeStore()
	services := []Service{
		{Name: "a", Probe: func(context.Context) Reading { panic("boom") }},
		{Name: "b", Probe: answering(Reading{Status: Healthy})},
	}
	monitor := NewHealthMonitor(services, store, heldLease(t, store), time.Minute, true)
	if err := monitor.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.health["a"].Err != "panic: boom" || store.health["b"].Status != Healthy {
		t.Errorf("health: %v", store.health)
	}
}

func TestTheHealthLoopKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := heldLease(t, store)
		monitor := NewHealthMonitor([]Service{{Name: "a", Probe: func(ctx context.Context) Reading {
			wait(ctx, 3*time.Second)
			return Reading{Status: Healthy}
		}}}, store, lease, time.Minute, true)
		got := ticksOf(t, &Loop{Name: healthLoop, Interval: time.Minute, Log: zerolog.Nop(), Cycle: monitor.Cycle}, 5*time.Minute-time.Second)
		if diff := cmp.Diff(sec(0, 60, 120, 180, 240), got); diff != "" {
			t.Error(diff)
		}
		if len(store.savedAt) != 5 {
			t.Errorf("health was saved %d times, want 5", len(store.savedAt))
		}
	})
}

func TestACrashingHealthMonitorLeavesTheMetricsCollectorRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := heldLease(t, store)
		store.fail = func(operation string) error {
			if operation == "health" {
				panic("the health monitor crashes")
			}
			return nil
		}
		services := []Service{{Name: "ingest", Probe: answering(Reading{Status: Healthy}), Sampled: true}}
		monitor := NewHealthMonitor(services, store, lease, 10*time.Second, true)
		collector := NewMetricsCollector(services, store, lease, NewMemoryBuffer(10), 5*time.Second)
		health := &Loop{Name: healthLoop, Interval: 10 * time.Second, Log: zerolog.Nop(), Cycle: monitor.Cycle}
		metrics := &Loop{Name: metricsLoop, Interval: 5 * time.Second, Log: zerolog.Nop(), Cycle: collector.Cycle}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute-time.Second)
		defer cancel()
		runLoops(ctx, []*Loop{health, metrics})
		if stats := health.Stats(); stats.Panics != 6 || stats.Cycles != 6 {
			t.Errorf("health loop: %+v, want six cycles and six panics", stats)
		}
		if len(store.cycles) != 12 {
			t.Errorf("%d metrics cycles are stored, want 12", len(store.cycles))
		}
	})
}

// Acknowledged alerts are dear to find, so they are looked for when they may be
// there: at first, after a change, after a failure, under a new lease.
func TestAcknowledgedAlertsAreLookedForWhenTheyMayBeThere(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	reading := Reading{Status: Healthy}
	monitor := NewHealthMonitor([]Service{{Name: "a", Probe: func(context.Context) Reading { return reading }}}, store, lease, time.Minute, true)
	cycle := func(wantErr bool) {
		t.Helper()
		if err := monitor.Cycle(t.Context()); (err != nil) != wantErr {
			t.Fatal(err)
		}
	}
	cycle(false) // the first
	cycle(false)
	reading.Status = Down
	cycle(false) // changed
	cycle(false)
	store.fail = func(operation string) error {
		if operation == "alerts" {
			return errors.New("away")
		}
		return nil
	}
	cycle(true)
	store.fail = nil
	cycle(false) // after a failure
	cycle(false)
	if _, err := lease.tryAcquire(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	cycle(false) // under a new lease
	if diff := cmp.Diff([]bool{true, false, true, false, false, true, false, true}, store.changed); diff != "" {
		t.Error(diff)
	}
}

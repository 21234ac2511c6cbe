package collectors

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

func parsedDetails(t *testing.T, o probe.Observation) map[string]any {
	t.Helper()
	text, err := json.Marshal(detailsOf(o))
	if err != nil {
		t.Fatal(err)
	}
	var details map[string]any
	if err := json.Unmarshal(text, &details); err != nil {
		t.Fatal(err)
	}
	return details
}

func TestAHealthyServiceWritesAHealthyRow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"status":"healthy","counters":{"messages_received":12}}`))
	}))
	defer server.Close()
	client := probe.NewClient(config.Config{Instances: true})
	store := newFakeStore()
	monitor := monitorOf(asking(client, "ingest", server.URL+"/health"), store, heldLease(t, store), time.Minute, alertAtOnce)
	if err := monitor.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	row := store.health["ingest"]
	if rowStatus(row) != "healthy" || latencyMS(row) < 0 {
		t.Errorf("row: %+v", row)
	}
	details := parsedDetails(t, row)
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

// SYSTEM_ALERT_ENABLED=false stops the alerts alone.
func TestWithoutAlertsTheRowsAreWritten(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client := probe.NewClient(config.Config{Instances: true})
	store := newFakeStore()
	monitor := monitorOf(asking(client, "ingest", server.URL+"/health"), store, heldLease(t, store), time.Minute, alertsAfter{})
	if err := monitor.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rowStatus(store.health["ingest"]) != "unhealthy" || len(store.open) != 0 || slices.Contains(store.Calls, "open") {
		t.Errorf("row %+v, alerts %v, calls %v", store.health["ingest"], store.open, store.Calls)
	}
}

func TestARefusedConnectionWritesAnUnhealthyRow(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // its port is free again, and refuses
	client := probe.NewClient(config.Config{Instances: true})
	store := newFakeStore()
	monitor := monitorOf(asking(client, "ingest", server.URL+"/health"), store, heldLease(t, store), time.Minute, alertAtOnce)
	if err := monitor.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	row := store.health["ingest"]
	if rowStatus(row) != "unhealthy" || latencyMS(row) != -1 {
		t.Errorf("row: %+v", row)
	}
	if diff := cmp.Diff(map[string]any{"status": "down", "error": "connection refused"}, parsedDetails(t, row)); diff != "" {
		t.Error(diff)
	}
	if store.open["ingest"] != "connection refused" {
		t.Errorf("alerts: %v", store.open)
	}
}

func TestAnAlertClosesWhenItsServiceRecovers(t *testing.T) {
	store := newFakeStore()
	reading := probe.Reading{Status: probe.Degraded, HTTPStatus: 503, Latency: time.Millisecond}
	asked := func(context.Context) probe.Reading { return reading }
	monitor := monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"evaluator": asked}), store, heldLease(t, store), time.Minute, alertAtOnce)
	for range 2 {
		if err := monitor.cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if store.open["evaluator"] != "HTTP 503" {
			t.Fatalf("alerts: %v", store.open)
		}
	}
	reading = probe.Reading{Status: probe.Healthy, HTTPStatus: 200, Latency: time.Millisecond}
	if err := monitor.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(store.open) != 0 {
		t.Errorf("alerts: %v", store.open)
	}
}

func TestAlertsCanBeTurnedOff(t *testing.T) {
	store := newFakeStore()
	monitor := monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"evaluator": answering(probe.Reading{Status: probe.Down})}), store, heldLease(t, store), time.Minute, alertsAfter{})
	if err := monitor.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.health["evaluator"].Status != probe.Down || len(store.open) != 0 {
		t.Errorf("health %v, alerts %v", store.health, store.open)
	}
}

func TestAlertsThatCannotBeWrittenDoNotCostTheHealthRows(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	store.Fail = func(operation string) error {
		if operation == "alerts" {
			return errors.New("no such table")
		}
		return nil
	}
	monitor := monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"evaluator": answering(probe.Reading{Status: probe.Down})}), store, lease, time.Minute, alertAtOnce)
	if err := monitor.cycle(t.Context()); err == nil {
		t.Error("the cycle should say that the alerts failed")
	}
	if store.health["evaluator"].Status != probe.Down {
		t.Errorf("health: %v", store.health)
	}
}

func TestServicesAreProbedAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := func(ctx context.Context) probe.Reading {
			<-ctx.Done()
			return probe.Reading{Status: probe.Unknown, Err: "no answer within 5s"}
		}
		store := newFakeStore()
		targets := watching(config.ProbeCounters, map[string]probe.Probe{"a": hanging, "b": hanging, "c": answering(probe.Reading{Status: probe.Healthy})})
		monitor := monitorOf(targets, store, heldLease(t, store), time.Minute, alertAtOnce)
		begin := time.Now()
		if err := monitor.cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != probe.Timeout {
			t.Errorf("two services that hang cost %s, want %s", took, probe.Timeout)
		}
		if store.health["a"].Status != probe.Unknown || store.health["c"].Status != probe.Healthy {
			t.Errorf("health: %v", store.health)
		}
	})
}

func TestAProbeThatPanicsCostsItsOwnReading(t *testing.T) {
	store := newFakeStore()
	targets := watching(config.ProbeCounters, map[string]probe.Probe{
		"a": func(context.Context) probe.Reading { panic("boom") },
		"b": answering(probe.Reading{Status: probe.Healthy}),
	})
	monitor := monitorOf(targets, store, heldLease(t, store), time.Minute, alertAtOnce)
	if err := monitor.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if store.health["a"].Err != "panic: boom" || store.health["b"].Status != probe.Healthy {
		t.Errorf("health: %v", store.health)
	}
}

func TestTheHealthLoopKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := heldLease(t, store)
		slow := func(context.Context) probe.Reading {
			pass(3 * time.Second)
			return probe.Reading{Status: probe.Healthy}
		}
		monitor := monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{"a": slow}), store, lease, time.Minute, alertAtOnce)
		got := ticksOf(t, &Loop{Name: HealthLoop, Interval: time.Minute, Log: zerolog.Nop(), Cycle: monitor.cycle}, 5*time.Minute-time.Second)
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
		crashes := 0
		store.Fail = func(operation string) error {
			if operation == "health" {
				crashes++
				panic("the health monitor crashes")
			}
			return nil
		}
		targets := watching(config.ProbeCounters, map[string]probe.Probe{"ingest": answering(probe.Reading{Status: probe.Healthy})})
		monitor := monitorOf(targets, store, lease, 10*time.Second, alertAtOnce)
		collector := collectorOf(targets, store, lease, spool.NewMemory(10), 5*time.Second)
		health := &Loop{Name: HealthLoop, Interval: 10 * time.Second, Log: zerolog.Nop(), Cycle: monitor.cycle}
		metrics := &Loop{Name: MetricsLoop, Interval: 5 * time.Second, Log: zerolog.Nop(), Cycle: collector.Cycle}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute-time.Second)
		defer cancel()
		runLoops(ctx, []*Loop{health, metrics})
		if crashes != 6 {
			t.Errorf("the health loop crashed %d times, want 6", crashes)
		}
		if len(store.cycles) != 12 {
			t.Errorf("%d metrics cycles are stored, want 12", len(store.cycles))
		}
	})
}

func TestACertificateThatEndsSoonIsLoggedOnceADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		ends := time.Now().Add(15 * 24 * time.Hour)
		monitor := monitorOf(watching(config.ProbeCounters, map[string]probe.Probe{
			"broker": answering(probe.Reading{Status: probe.Healthy, CertificateEnds: ends}),
			"ingest": answering(probe.Reading{Status: probe.Healthy}),
		}), store, heldLease(t, store), time.Hour, alertAtOnce)
		var log logtest.Log
		ctx := log.Logger().WithContext(t.Context())
		for range 4 * 24 { // the last three days of these
			monitor.check(ctx)
			time.Sleep(time.Hour)
		}
		lines := log.Lines(t, "certificate ends soon")
		if len(lines) != 3 {
			t.Fatalf("%d lines, want 3: %s", len(lines), log.String())
		}
		if l := lines[2]; l["monitored"] != "broker" || l["level"] != "warn" || l["reason"] != "the certificate ends in 12d, on "+ends.UTC().Format("2006-01-02 15:04 UTC") {
			t.Errorf("%v", l)
		}
	})
}

func TestTheDetailsHaveTheCertificatesEnd(t *testing.T) {
	ends := time.Date(2026, 3, 4, 12, 0, 0, 0, time.FixedZone("", 3600))
	details := parsedDetails(t, observation("broker", probe.Reading{Status: probe.Healthy, CertificateEnds: ends}))
	if diff := cmp.Diff(map[string]any{"status": "healthy", "certificate_ends": "2026-03-04T11:00:00Z"}, details); diff != "" {
		t.Error(diff)
	}
	// A service may present any year: the rows of the others do not depend on it.
	parsedDetails(t, observation("broker", probe.Reading{CertificateEnds: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}))
}

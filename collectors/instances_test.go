package collectors

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ops_worker/internal/config"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// instancesOf are a target's instances, which answer what readings has, in its order.
func instancesOf(service config.Service, readings *[]probe.Reading) probe.Target {
	return probe.Target{Service: service, Instances: func() []probe.Instance {
		var list []probe.Instance
		for n, r := range *readings {
			if r.Remote == "" {
				r.Remote = fmt.Sprintf("10.0.0.%d:8080", n+1)
			}
			list = append(list, probe.Instance{Address: fmt.Sprintf("10.0.0.%d:8080", n+1), Probe: answering(r)})
		}
		return list
	}}
}

var (
	wellInstance = probe.Reading{Status: probe.Healthy, HTTPStatus: 200, Latency: 2 * time.Millisecond}
	slowInstance = probe.Reading{Status: probe.Healthy, HTTPStatus: 200, Latency: 30 * time.Millisecond}
	illInstance  = probe.Reading{Status: probe.Degraded, HTTPStatus: 503, Latency: time.Millisecond}
	deadInstance = probe.Reading{Status: probe.Down, Err: "connection refused"}
)

// A service with instances is unhealthy, in its row and for its alert, where fewer
// than half are healthy; the details name those that are not.
func TestTheStateOfAServiceWithInstances(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		readings []probe.Reading
		row      string
		details  map[string]any
		alert    string
		samples  []string
	}{
		"one": {[]probe.Reading{wellInstance}, "healthy",
			map[string]any{"status": "healthy", "http_status": 200.0, "latency_ms": 2.0}, "", []string{"evaluator healthy 1"}},
		"all well": {[]probe.Reading{wellInstance, slowInstance}, "healthy",
			map[string]any{"status": "healthy", "http_status": 200.0, "latency_ms": 30.0, "instances": 2.0}, "",
			[]string{"evaluator healthy 1", "evaluator instances 2", "evaluator instances_healthy 2"}},
		"half": {[]probe.Reading{wellInstance, deadInstance}, "healthy",
			map[string]any{"status": "degraded", "latency_ms": 2.0, "error": "1 of 2 instances: connection refused", "instances": 2.0,
				"unhealthy_instances": map[string]any{"10.0.0.2:8080": "connection refused"}}, "",
			[]string{"evaluator healthy 1", "evaluator instances 2", "evaluator instances_healthy 1"}},
		"fewer": {[]probe.Reading{illInstance, slowInstance, deadInstance}, "unhealthy",
			map[string]any{"status": "degraded", "latency_ms": 30.0, "error": "2 of 3 instances: HTTP 503", "instances": 3.0,
				"unhealthy_instances": map[string]any{"10.0.0.1:8080": "HTTP 503", "10.0.0.3:8080": "connection refused"}}, "2 of 3 instances: HTTP 503",
			[]string{"evaluator healthy 0", "evaluator instances 3", "evaluator instances_healthy 1"}},
		"none": {[]probe.Reading{deadInstance, deadInstance}, "unhealthy",
			map[string]any{"status": "down", "error": "2 of 2 instances: connection refused", "instances": 2.0,
				"unhealthy_instances": map[string]any{"10.0.0.1:8080": "connection refused", "10.0.0.2:8080": "connection refused"}}, "2 of 2 instances: connection refused",
			[]string{"evaluator healthy 0", "evaluator instances 2", "evaluator instances_healthy 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newFakeStore()
			lease := heldLease(t, store)
			targets := []probe.Target{instancesOf(config.Service{Name: "evaluator"}, &test.readings)}
			if err := monitorOf(targets, store, lease, time.Minute, alertAtOnce).cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			o := store.health["evaluator"]
			if rowStatus(o) != test.row || store.open["evaluator"] != test.alert {
				t.Errorf("row %s, alert %q", rowStatus(o), store.open["evaluator"])
			}
			if diff := cmp.Diff(test.details, parsedDetails(t, o)); diff != "" {
				t.Error(diff)
			}
			collector := collectorOf(targets, store, lease, spool.NewMemory(10), 5*time.Second)
			if err := collector.Cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantSamples(t, slices.DeleteFunc(collector.gatherer.last.Samples, func(s spool.Sample) bool { return s.Service != "evaluator" }), test.samples...)
		})
	}
}

// A service that was in part not well, and then for the most, has changed, though
// its status is the same.
func TestAnAlertOfInstancesOpensAndCloses(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	readings := []probe.Reading{wellInstance, wellInstance, deadInstance}
	monitor := monitorOf([]probe.Target{instancesOf(config.Service{Name: "evaluator"}, &readings)}, store, heldLease(t, store), time.Minute, alertAtOnce)
	var log logtest.Log
	ctx := log.Logger().WithContext(t.Context())
	for _, step := range []struct {
		second probe.Reading
		alert  string
	}{{wellInstance, ""}, {deadInstance, "2 of 3 instances: connection refused"}, {wellInstance, ""}} {
		readings[1] = step.second
		if err := monitor.cycle(ctx); err != nil {
			t.Fatal(err)
		}
		if store.open["evaluator"] != step.alert {
			t.Errorf("alert %q, want %q", store.open["evaluator"], step.alert)
		}
	}
	var reasons []string
	for _, line := range log.Lines(t, "service changed") {
		reasons = append(reasons, line["reason"].(string))
	}
	if diff := cmp.Diff([]string{"1 of 3 instances: connection refused", "2 of 3 instances: connection refused", "1 of 3 instances: connection refused"}, reasons); diff != "" {
		t.Error(diff)
	}
}

func TestInstancesThatShareAnAddressAreNumbered(t *testing.T) {
	t.Parallel()
	got := unhealthyInstances([]probe.InstanceReading{{Address: "gw:80", Reading: deadInstance}, {Address: "gw:80", Reading: wellInstance}, {Address: "gw:80", Reading: illInstance}})
	if diff := cmp.Diff(map[string]string{"gw:80": "connection refused", "gw:80 #3": "HTTP 503"}, got); diff != "" {
		t.Error(diff)
	}
}

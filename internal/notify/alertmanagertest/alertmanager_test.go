// Package alertmanagertest reads what the worker posts as an Alertmanager does.
package alertmanagertest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/api/v2/models"
	"go.uber.org/goleak"

	"ops_worker/internal/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// post returns the path and the body of the request that a check leads to.
func post(t *testing.T, now time.Time, firing []notify.Alert) (path string, body []byte) {
	t.Helper()
	came := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		body, _ = io.ReadAll(r.Body)
		came <- struct{}{}
	}))
	defer server.Close()
	w := notify.New(notify.Options{URL: server.URL, Format: notify.Alertmanager, CheckInterval: time.Minute})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	w.Tell(now, nil, firing)
	select {
	case <-came:
	case <-ctx.Done():
		t.Fatal("nothing was posted")
	}
	stop()
	running.Wait()
	return path, body
}

func TestAlertmanagerTakesTheAlerts(t *testing.T) {
	now := time.Date(2026, 11, 26, 3, 10, 0, 0, time.UTC)
	opened := now.Add(-5*time.Minute - 123456*time.Microsecond)
	path, body := post(t, now, []notify.Alert{
		{Service: "ingest", Status: "down", Reason: "connection refused", Opened: opened},
		{Service: "api", Status: "degraded", Reason: "HTTP status 503, \"busy\" <&> \xff", Opened: opened},
		{Service: "mqtt", Status: "unknown", Opened: opened, DatabaseAway: true},
	})
	if path != "/api/v2/alerts" {
		t.Errorf("posted to %s", path)
	}
	var alerts models.PostableAlerts
	if err := json.Unmarshal(body, &alerts); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if err := alerts.Validate(strfmt.Default); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	if len(alerts) != 3 {
		t.Fatalf("alerts: %s", body)
	}
	first := alerts[0]
	for name, want := range map[string]string{"alertname": "SystemHealth", "service": "ingest", "severity": "critical"} {
		if got := first.Labels[name]; got != want {
			t.Errorf("label %s is %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"summary": "Service unhealthy: ingest (connection refused)", "reason": "connection refused",
		"key": "system-health:ingest@2026-11-26T03:04:59.876544Z",
	} {
		if got := first.Annotations[name]; got != want {
			t.Errorf("annotation %s is %q, want %q", name, got, want)
		}
	}
	// Alertmanager's own type keeps milliseconds.
	if starts := time.Time(first.StartsAt); opened.Sub(starts).Abs() >= time.Millisecond {
		t.Errorf("it starts at %s", starts)
	}
	if ends := time.Time(first.EndsAt); !ends.Equal(now.Add(4 * time.Minute)) {
		t.Errorf("it ends at %s", ends)
	}
}

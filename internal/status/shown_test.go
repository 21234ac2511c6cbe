package status

import (
	"testing"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
)

// What comes with every cycle has its line, and of what comes once a minute what says
// why a platform is slow; no series is old before its next sample is late.
func TestWhichSeriesAreShown(t *testing.T) {
	t.Parallel()
	for _, s := range contracttest.Samples {
		if shown(s.Service, s.Metric) != (s.Metric != config.HealthSample) {
			t.Errorf("%v: shown is %v", s, shown(s.Service, s.Metric))
		}
		if got := every(s.Service, s.Metric, 5*time.Second); got != 5*time.Second && s.Metric != config.HealthSample {
			t.Errorf("%v: every %s", s, got)
		}
	}
	lines := 0
	for _, s := range contracttest.MinuteSamples {
		if !shown(s.Service, s.Metric) {
			continue
		}
		lines++
		if got := every(s.Service, s.Metric, 5*time.Second); got != time.Minute {
			t.Errorf("%v: every %s", s, got)
		}
	}
	if lines != 2 { // the longest transaction and the waiting locks
		t.Errorf("%d of the minute's have a line", lines)
	}
	for _, s := range contracttest.RunSamples {
		if shown(s.Service, s.Metric) {
			t.Errorf("%v is shown", s)
		}
	}
	for name, want := range map[[2]string]time.Duration{
		{"ingest", "nats_shadow_pending"}: time.Minute, // one of its other counters
		{"ingest", "instances"}:           5 * time.Second,
		{"billing", "sites"}:              5 * time.Second, // an extra service's
	} {
		if got := every(name[0], name[1], 5*time.Second); got != want || !shown(name[0], name[1]) {
			t.Errorf("%v: every %s, shown %v", name, got, shown(name[0], name[1]))
		}
	}
	if got := every("postgres", "locks_waiting", 2*time.Minute); got != 2*time.Minute {
		t.Errorf("at an interval of two minutes: every %s", got)
	}
}

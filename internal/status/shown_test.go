package status

import (
	"testing"

	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
)

// Every number of a cycle has its line; of those of a minute, the ones that say why a
// platform is slow.
func TestWhichSeriesAreShown(t *testing.T) {
	t.Parallel()
	for _, s := range contracttest.Samples {
		if shown(s.Service, s.Metric) != (s.Metric != config.HealthSample) {
			t.Errorf("%v: shown is %v", s, shown(s.Service, s.Metric))
		}
	}
	lines := 0
	for _, s := range contracttest.MinuteSamples {
		if shown(s.Service, s.Metric) {
			lines++
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
	for _, name := range []string{"ingest", "billing"} {
		if !shown(name, "nats_shadow_pending") {
			t.Errorf("a number of %s is not shown", name)
		}
	}
}

package status

import (
	"slices"
	"testing"

	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
)

// Every number of a cycle has its line; of the others, the ones that say what fails, and
// why a platform is slow.
func TestWhichSeriesAreShown(t *testing.T) {
	t.Parallel()
	for _, s := range slices.Concat(contracttest.Samples, contracttest.LaterSamples) {
		if shown(s.Service, s.Metric) != (s.Metric != config.HealthSample) {
			t.Errorf("%v: shown is %v", s, shown(s.Service, s.Metric))
		}
	}
	lines := 0
	for _, s := range slices.Concat(contracttest.MinuteSamples, contracttest.FiveMinuteSamples) {
		if shown(s.Service, s.Metric) {
			lines++
		}
	}
	if lines != 6 { // evaluation errors, delivery jobs, the longest transaction and the waiting locks
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

package collectors

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ops_worker/db"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/pgtest"
)

// What an aggregate yields is what the tests know of it: a query whose rows are cut
// short, or have another name, shows here. A standby, and one behind this server, are
// not there.
func TestAggregatesYieldTheirSamples(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	want := map[string]bool{}
	for _, s := range contracttest.FirstSamples() {
		if s.Service != "ingest" && s.Service != "evaluator" && s.Metric != "healthy" {
			want[s.Service+" "+s.Metric] = true
		}
	}
	got := map[string]bool{}
	err := db.ReadAggregates(t.Context(), db.New(pool), Aggregates, func(_ db.Aggregate, samples []db.Sample, _ time.Duration) {
		for _, s := range samples {
			got[s.Service+" "+s.MetricName] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

package pace

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWhatTakesLongIsDueLessOften(t *testing.T) {
	const cycle, minute = 5 * time.Second, time.Minute
	for name, test := range map[string]struct {
		jobs []Job
		want []time.Duration
	}{
		"none":                     {nil, []time.Duration{}},
		"nothing is known":         {[]Job{{cycle, 0}, {minute, 0}}, []time.Duration{cycle, minute}},
		"all are cheap":            {[]Job{{cycle, time.Millisecond}, {minute, 100 * time.Millisecond}}, []time.Duration{cycle, minute}},
		"a second alone":           {[]Job{{cycle, time.Second}}, []time.Duration{50 * time.Second}},
		"just the budget":          {[]Job{{cycle, 100 * time.Millisecond}}, []time.Duration{cycle}},
		"two of a second":          {[]Job{{cycle, time.Second}, {cycle, time.Second}}, []time.Duration{100 * time.Second, 100 * time.Second}},
		"a cheap one is not slow":  {[]Job{{cycle, 50 * time.Millisecond}, {cycle, time.Second}}, []time.Duration{cycle, 100 * time.Second}},
		"the same, the other way":  {[]Job{{cycle, time.Second}, {cycle, 50 * time.Millisecond}}, []time.Duration{100 * time.Second, cycle}},
		"wanted once a minute":     {[]Job{{minute, time.Second}}, []time.Duration{minute}},
		"one that takes a minute":  {[]Job{{minute, time.Minute}}, []time.Duration{50 * time.Minute}},
		"four times as often, too": {[]Job{{cycle, 2 * time.Second}, {4 * cycle, 2 * time.Second}}, []time.Duration{200 * time.Second, 200 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			got := Intervals(0.02, test.jobs)
			for i := range got {
				got[i] = got[i].Round(time.Millisecond)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever the jobs are, the budget is kept, and used where there is work for it.
func TestTheBudgetIsKept(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		budget := random.Float64()
		jobs := make([]Job, random.IntN(20))
		for i := range jobs {
			jobs[i] = Job{time.Duration(1 + random.Int64N(int64(10*time.Minute))), time.Duration(random.Int64N(int64(time.Minute)))}
			if random.IntN(3) == 0 {
				jobs[i].Cost = 0
			}
		}
		wanted, used := 0.0, 0.0
		for i, interval := range Intervals(budget, jobs) {
			if interval < jobs[i].Interval {
				t.Fatalf("seed %d: %v every %s", seed, jobs[i], interval)
			}
			wanted += jobs[i].Cost.Seconds() / jobs[i].Interval.Seconds()
			used += jobs[i].Cost.Seconds() / interval.Seconds()
		}
		if share := min(wanted, budget); used > share*1.000001 || used < share*0.999 {
			t.Fatalf("seed %d: %g of %g is used, %g is wanted", seed, used, budget, wanted)
		}
	}
}

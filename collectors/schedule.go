package collectors

import (
	"slices"
	"sync"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pace"
)

// longestInCycle is how much of an aggregate a cycle has time for, where a quarter of
// its interval is not less; and it has time for twice as much of all together.
const longestInCycle = 250 * time.Millisecond

// schedule says which aggregates are due, in one of two lanes: within the cycle, or
// beside it, one at a time, where one takes long. Each is due again when it is wanted,
// or later where the budget of all of them wants that.
type schedule struct {
	interval time.Duration // of the cycles
	budget   float64       // the share of wall time for all aggregates

	mu   sync.Mutex
	list []*entry
}

// entry is one aggregate, and what its readings have shown.
type entry struct {
	db.Aggregate
	costs []time.Duration // of the newest readings
	// slow is that it did not end in a cycle's time.
	slow bool
	// pace is how often it is due as the budget has it; told is the newest that was
	// logged.
	pace, told time.Duration
	// begun is when it was last due, and of which cycle; zero where it is due now.
	begun, cycle time.Time
	reading      bool // beside
}

func newSchedule(list []db.Aggregate, interval time.Duration, budget float64) *schedule {
	s := &schedule{interval: interval, budget: budget}
	for _, a := range list {
		e := &entry{Aggregate: a}
		e.pace = s.wanted(e)
		e.told = e.pace
		s.list = append(s.list, e)
	}
	return s
}

// wanted is how often it is due while that is cheap.
func (s *schedule) wanted(e *entry) time.Duration { return max(e.Every, s.interval) }

// cost is the median of the newest readings, of two the larger: a single slow one
// changes no pace.
func (e *entry) cost() time.Duration {
	sorted := slices.Sorted(slices.Values(e.costs))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

const costsKept = 3

func (s *schedule) longest() time.Duration { return min(s.interval/4, longestInCycle) }

// beside reports whether a cycle has no time for it. What is not known yet is tried in
// a cycle.
func (s *schedule) beside(e *entry) bool { return e.slow || e.cost() > s.longest() }

// isDue reports whether an aggregate is due now, in the cycle of this time.
func (s *schedule) isDue(e *entry, now, cycle time.Time) bool {
	switch {
	case e.reading:
		return false
	case e.begun.IsZero():
		return true
	case e.pace > s.wanted(e):
		const early = 10 // a tenth of a cycle, which begins a little sooner or later
		return !now.Add(s.interval / early).Before(e.begun.Add(e.pace))
	}
	// In the first cycle of each minute, as all that is stored once in each.
	return e.Every == 0 || !cycle.Truncate(e.Every).Equal(e.cycle.Truncate(e.Every))
}

// begin returns the aggregates for the cycle that begins now, as many as it has time
// for.
func (s *schedule) begin(now, cycle time.Time) (list []db.Aggregate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := 2 * s.longest()
	for _, e := range s.list {
		if s.beside(e) || !s.isDue(e, now, cycle) || left < e.cost() {
			continue
		}
		left -= e.cost()
		e.begun, e.cycle = now, cycle
		list = append(list, e.Aggregate)
	}
	return list
}

// beginBeside returns the one that has waited for longest of those that no cycle has
// time for.
func (s *schedule) beginBeside(now, cycle time.Time) (next db.Aggregate, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *entry
	for _, e := range s.list {
		if s.beside(e) && s.isDue(e, now, cycle) && (first == nil || e.begun.Before(first.begun)) {
			first = e
		}
	}
	if first == nil {
		return next, false
	}
	first.reading, first.begun, first.cycle = true, now, cycle
	return first.Aggregate, true
}

// paceChange is an aggregate that is counted half or twice as often as it was.
type paceChange struct {
	name             string
	cost, every, was time.Duration
}

// ended takes readings, and returns the paces that changed with them.
func (s *schedule) ended(r Readings, beside bool) []paceChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if reading, ok := r.Of[e.Name]; ok {
			e.ended(reading, beside)
		}
	}
	return s.share()
}

func (e *entry) ended(r Reading, beside bool) {
	e.reading = false
	if r.Took > 0 && (beside || !r.TimedOut) {
		e.costs = append(e.costs, r.Took)
		e.costs = e.costs[max(0, len(e.costs)-costsKept):]
	}
	switch {
	case r.Err == nil:
		e.slow = false
	case r.TimedOut && !beside:
		e.slow, e.begun = true, time.Time{}
	case !r.TimedOut && !db.IsServerError(r.Err):
		// The connection is at fault. What can wait is read beside the cycles first: a
		// database that comes back is slow, and must not lose the next cycle too.
		e.slow, e.begun = e.slow || e.Every > 0, time.Time{}
	}
}

// share shares the budget anew.
func (s *schedule) share() (changes []paceChange) {
	jobs := make([]pace.Job, len(s.list))
	for i, e := range s.list {
		jobs[i] = pace.Job{Interval: s.wanted(e), Cost: e.cost()}
	}
	for i, every := range pace.Intervals(s.budget, jobs) {
		e := s.list[i]
		e.pace = every
		if every >= 2*e.told || every <= e.told/2 {
			changes = append(changes, paceChange{e.Name, e.cost(), every, e.told})
			e.told = every
		}
	}
	return changes
}

// paceOf is how long an aggregate takes, and how often it is due.
func (s *schedule) paceOf(name string) (cost, every time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.Name == name {
			return e.cost(), e.pace
		}
	}
	return 0, 0
}

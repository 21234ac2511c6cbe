package collectors

import (
	"slices"
	"sync"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pace"
)

const (
	// An aggregate that costs more, or more than a quarter of the interval, is read
	// beside the cycles. One cycle reads aggregates of at most twice that together.
	longestInCycle = 250 * time.Millisecond
	costsKept      = 3
)

// schedule decides which aggregates are due: fast ones in a cycle, slow ones beside the
// cycles, one at a time. Each is due again at its own interval, or later if the budget
// of all aggregates requires it.
type schedule struct {
	interval time.Duration // of the cycles
	longest  time.Duration // cost of an aggregate in a cycle
	budget   float64       // the share of wall time for all aggregates

	mu   sync.Mutex
	list []*entry
}

// entry is one aggregate and its schedule.
type entry struct {
	db.Aggregate
	costs      []time.Duration // of the newest readings
	slow       bool            // read it beside the cycles next: it timed out in one, or the connection failed
	wanted     time.Duration   // its interval while the budget suffices
	pace       time.Duration   // the interval that the budget allows
	loggedPace time.Duration
	begun      time.Time // when it was last read; zero if it is due now
	cycle      time.Time // in which begun lies
	reading    bool      // now, beside the cycles
}

func newSchedule(list []db.Aggregate, interval time.Duration, budget float64) *schedule {
	s := &schedule{interval: interval, longest: min(interval/4, longestInCycle), budget: budget}
	for _, a := range list {
		wanted := max(a.Every, interval)
		s.list = append(s.list, &entry{Aggregate: a, wanted: wanted, pace: wanted, loggedPace: wanted})
	}
	return s
}

// begin returns the aggregates that are due in the cycle that begins now, as many as it
// has time for.
func (s *schedule) begin(now, cycle time.Time) (list []db.Aggregate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := 2 * s.longest
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

// beginBeside returns the aggregate that has been due beside the cycles for longest.
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

// paceChange is an aggregate that is counted half or twice as often as before.
type paceChange struct {
	name             string
	cost, every, was time.Duration
}

// ended takes readings, and returns the changes of pace.
func (s *schedule) ended(r Readings, beside bool) []paceChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if reading, ok := r.Of[e.Name]; ok {
			e.ended(reading, beside)
		}
	}
	return s.spreadBudget()
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
		// The connection failed. An aggregate that is not due in every cycle is read
		// beside them first: a database that comes back is slow, and must not cost the
		// next cycle too.
		e.slow, e.begun = e.slow || e.Every > 0, time.Time{}
	}
}

// spreadBudget sets every pace from the newest costs.
func (s *schedule) spreadBudget() (changes []paceChange) {
	jobs := make([]pace.Job, len(s.list))
	for i, e := range s.list {
		jobs[i] = pace.Job{Interval: e.wanted, Cost: e.cost()}
	}
	for i, every := range pace.Intervals(s.budget, jobs) {
		e := s.list[i]
		e.pace = every
		if every >= 2*e.loggedPace || every <= e.loggedPace/2 {
			changes = append(changes, paceChange{e.Name, e.cost(), every, e.loggedPace})
			e.loggedPace = every
		}
	}
	return changes
}

// paceOf is how long an aggregate takes, and the interval at which it is due.
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

// cost is the median of the newest readings, or the larger of two: a single slow one
// does not change the pace.
func (e *entry) cost() time.Duration {
	sorted := slices.Sorted(slices.Values(e.costs))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

// beside reports whether it is too slow for a cycle. The first reading is in a cycle.
func (s *schedule) beside(e *entry) bool { return e.slow || e.cost() > s.longest }

// isDue reports whether an aggregate is due now, in the cycle at this time.
func (s *schedule) isDue(e *entry, now, cycle time.Time) bool {
	switch {
	case e.reading:
		return false
	case e.begun.IsZero():
		return true
	case e.pace > e.wanted:
		tolerance := s.interval / 10 // cycles begin a little sooner or later
		return !now.Add(tolerance).Before(e.begun.Add(e.pace))
	}
	// Every minute is the first cycle of each minute, as for all that is stored once a
	// minute.
	return e.Every == 0 || !cycle.Truncate(e.Every).Equal(e.cycle.Truncate(e.Every))
}

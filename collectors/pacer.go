package collectors

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pace"
)

// longestInCycle is how much of an aggregate a cycle has time for, where a quarter of
// its interval is not less; and it has time for twice as much of all together.
const longestInCycle = 250 * time.Millisecond

// pacer decides which aggregates are due: in a cycle, or beside the cycles, one at a
// time, where one takes long.
type pacer struct {
	interval time.Duration // of the cycles
	budget   float64       // the share of wall time for all aggregates

	mu     sync.Mutex
	minute time.Time // of the newest cycle
	list   []*pacedAggregate
	landed Aggregates // what was counted beside since a cycle last took it
}

// pacedAggregate is one, and what its readings have shown.
type pacedAggregate struct {
	db.Aggregate
	// costs are of the newest readings: how long the call of each took.
	costs []time.Duration
	// tooLong is that it did not end in a cycle's time.
	tooLong bool
	wanted  time.Duration
	every   time.Duration // as the budget has it
	logged  time.Duration // the newest of these that was logged
	// begun is when it was last due, zero where it is now; after a failure it is due
	// again when it is wanted.
	begun    time.Time
	minute   time.Time // of the cycle that was the newest then
	failed   bool
	inFlight bool // beside
}

func newPacer(list []db.Aggregate, interval time.Duration, budget float64) *pacer {
	p := &pacer{interval: interval, budget: budget}
	for _, a := range list {
		wanted := max(a.Every, interval)
		p.list = append(p.list, &pacedAggregate{Aggregate: a, wanted: wanted, every: wanted, logged: wanted})
	}
	return p
}

// cost is the median of the newest readings, of two the larger: a single slow one
// changes no pace.
func (a *pacedAggregate) cost() time.Duration {
	sorted := slices.Sorted(slices.Values(a.costs))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

const costsKept = 3

func (p *pacer) longest() time.Duration { return min(p.interval/4, longestInCycle) }

// next is when it is due.
func (a *pacedAggregate) next() time.Time {
	switch {
	case a.begun.IsZero():
		return a.begun
	case a.failed:
		return a.begun.Add(a.wanted)
	}
	return a.begun.Add(a.every)
}

// isDue reports whether the cycle that begins now is the nearest to when it is due.
// What is wanted once a minute and may be goes by the minute of the cycle, as all that
// is stored once a minute.
func (p *pacer) isDue(a *pacedAggregate, now time.Time) bool {
	switch {
	case a.inFlight:
		return false
	case a.Every == time.Minute && a.every == a.wanted && !a.begun.IsZero():
		return !a.minute.Equal(p.minute)
	}
	return !now.Add(p.interval / 2).Before(a.next())
}

// begin notes that it is read now. Where that is early or late by less than a cycle,
// the next time is not: an interval that is no whole number of cycles is kept on
// average.
func (p *pacer) begin(a *pacedAggregate, now time.Time) {
	a.minute = p.minute
	if next := a.next(); now.Sub(next).Abs() < p.interval {
		a.begun = next
	} else {
		a.begun = now
	}
}

// goesBeside reports whether a cycle has no time for it. What is not known yet is
// tried in a cycle.
func (p *pacer) goesBeside(a *pacedAggregate) bool { return a.tooLong || a.cost() > p.longest() }

// beginTerm starts one: what was counted in an earlier one is none of its samples.
func (p *pacer) beginTerm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.landed = Aggregates{}
}

// due are the aggregates for the cycle that begins now, whose samples are of a minute:
// the cheap ones first, as long as it has time.
func (p *pacer) due(now, minute time.Time) (list []db.Aggregate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.minute = minute
	var candidates []*pacedAggregate
	for _, a := range p.list {
		if p.isDue(a, now) && !p.goesBeside(a) {
			candidates = append(candidates, a)
		}
	}
	byCost := slices.SortedStableFunc(slices.Values(candidates), func(a, b *pacedAggregate) int { return cmp.Compare(a.cost(), b.cost()) })
	left := 2 * p.longest()
	late := slices.IndexFunc(byCost, func(a *pacedAggregate) bool {
		left -= a.cost()
		return left < 0
	})
	for _, a := range candidates { // in the order of the table, where the platform's come last
		if late < 0 || slices.Contains(byCost[:late], a) {
			p.begin(a, now)
			list = append(list, a.Aggregate)
		}
	}
	return list
}

// takeAll are all aggregates, for a collector that turns once: no cycle has any.
func (p *pacer) takeAll() (list []db.Aggregate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.list {
		list = append(list, a.Aggregate)
	}
	p.list = nil
	return list
}

// besideIsDue reports whether there is a nextBeside.
func (p *pacer) besideIsDue(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.oldestBeside(now) != nil
}

// nextBeside is the one that has been due for longest of those that no cycle has
// time for.
func (p *pacer) nextBeside(now time.Time) (next db.Aggregate, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := p.oldestBeside(now)
	if oldest == nil {
		return next, false
	}
	oldest.inFlight = true
	p.begin(oldest, now)
	return oldest.Aggregate, true
}

func (p *pacer) oldestBeside(now time.Time) (oldest *pacedAggregate) {
	for _, a := range p.list {
		if p.goesBeside(a) && p.isDue(a, now) && (oldest == nil || a.next().Before(oldest.next())) {
			oldest = a
		}
	}
	return oldest
}

// paceChange is an aggregate that is counted half or twice as often as it was.
type paceChange struct {
	aggregate        string
	cost, every, was time.Duration
}

// counted takes a reading of these aggregates, and returns the paces that changed with
// it. Those that only did not end in a cycle's time have not failed: they are due
// beside it.
func (p *pacer) counted(list []db.Aggregate, a *Aggregates, beside bool) []paceChange {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, paced := range p.list {
		if !slices.ContainsFunc(list, func(l db.Aggregate) bool { return l.Name == paced.Name }) {
			continue
		}
		paced.inFlight, paced.failed = false, false
		cost, known := a.Took[paced.Name]
		err := a.Failed[paced.Name]
		timedOut := db.IsServerError(err) && db.IsTimeout(err) || slices.Contains(a.Unended, paced.Name)
		if known && (beside || !timedOut) {
			paced.learn(cost)
		}
		switch {
		case err == nil:
			paced.tooLong = false
		case timedOut && beside: // as the budget has it
		case timedOut:
			paced.tooLong, paced.begun = true, time.Time{}
			delete(a.Failed, paced.Name)
		case db.IsServerError(err):
			paced.failed = true
		default:
			// The connection is at fault. What can wait is read beside the cycles first: a
			// database that comes back is slow, and must not lose the next cycle too.
			paced.begun = time.Time{}
			paced.tooLong = paced.tooLong || paced.Every > 0
			if beside {
				delete(a.Failed, paced.Name)
			}
		}
	}
	changes := p.pace()
	if beside {
		p.landed.merge(*a)
	}
	return changes
}

func (a *pacedAggregate) learn(cost time.Duration) {
	a.costs = append(a.costs, cost)
	a.costs = a.costs[max(0, len(a.costs)-costsKept):]
}

// pace shares the budget anew.
func (p *pacer) pace() (changes []paceChange) {
	jobs := make([]pace.Job, len(p.list))
	for i, a := range p.list {
		jobs[i] = pace.Job{Interval: a.wanted, Cost: a.cost()}
	}
	for i, every := range pace.Intervals(p.budget, jobs) {
		a := p.list[i]
		a.every = every
		if every >= 2*a.logged || every <= a.logged/2 {
			changes = append(changes, paceChange{a.Name, a.cost(), every, a.logged})
			a.logged = every
		}
	}
	return changes
}

// takeLanded is what was counted beside the cycles since the last call.
func (p *pacer) takeLanded() (landed Aggregates) {
	p.mu.Lock()
	defer p.mu.Unlock()
	landed, p.landed = p.landed, Aggregates{}
	return landed
}

// paceOf is how long an aggregate takes, and how often it is due.
func (p *pacer) paceOf(name string) (cost, every time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.list {
		if a.Name == name {
			return a.cost(), a.every
		}
	}
	return 0, 0
}

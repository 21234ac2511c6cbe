package probe

import (
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"ops_worker/internal/config"
)

const (
	// askingEvery is how often an address is asked in a burst whatever it says.
	askingEvery = time.Minute
	// cleanBursts in a row show that an address leads to one instance again.
	cleanBursts = 5
)

// Totals makes one running total of what the instances of a service count, each from
// zero at its own start, for one term of a leader. It never falls, and never grows by
// more than was counted.
type Totals struct {
	service config.Service

	mu        sync.Mutex // of all below
	instances map[string]*counted
	cycle     int // of those in which some instance answered

	// totals are those that have begun: at what is stored, or what was read first. They
	// are nil until what is stored is known.
	totals map[string]float64
	begun  bool // a cycle has been added to them
}

// counted is what is known of the instance at an address. One goroutine at a time asks
// it or adds it.
type counted struct {
	address string
	cycle   int // in which it answered last
	// last is what it said then; where it is nil, what it says next adds nothing.
	last  map[string]float64
	asked time.Time // when the newest bursts began
	// open are the bursts under way, two where twice says so. They go on in the next
	// cycles where this one has no time: a burst that is not over proves nothing.
	open  []burst
	twice bool
	// several is that several instances answer there, and clean how many bursts have
	// not shown it since. A doubt is what bursts under way are to end, or a fall that only
	// one of two had; meanwhile nothing is added.
	several bool
	clean   int
	doubt   bool
}

// NewTotals makes the totals of a service, which has no term yet.
func NewTotals(service config.Service) *Totals {
	return &Totals{service: service, instances: map[string]*counted{}}
}

// Begin starts a term.
func (t *Totals) Begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.instances, t.totals, t.begun = map[string]*counted{}, nil, false
}

// Resume says what is stored of each counter; there are no totals before.
func (t *Totals) Resume(stored map[string]float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.totals = map[string]float64{}
	for name, value := range stored {
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			t.totals[name] = value
		}
	}
}

// Ask finds out whether several instances answer at an address, by asking in bursts: at
// the start of a term, once a minute, and where a total is less than it was. It is the
// target's Answered.
func (t *Totals) Ask(ctx context.Context, i InstanceReading) {
	t.mu.Lock()
	c := t.at(i)
	t.mu.Unlock()
	unsure := c.asked.IsZero() || c.doubt || !c.several && fallen(c.last, i.Counters, t.service.Totals)
	if len(c.open) > 0 {
		c.open[len(c.open)-1].take(i.Counters, t.service.Totals)
	} else if unsure || time.Since(c.asked) >= askingEvery {
		c.asked, c.open, c.twice = time.Now(), []burst{{last: i.Counters}}, false
	}
	c.twice = c.twice || unsure
	switch {
	case len(c.open) == 0:
	case c.askInBursts(ctx, i.Again, t.service.Totals):
		c.judge(c.open)
		c.open = nil
	case !c.several && (c.twice || c.open[0].fell):
		c.doubt, c.last = true, nil
	}
}

// askInBursts goes on with one burst, or with two: where that is wanted, or a total of
// what was one instance has fallen in the first.
func (c *counted) askInBursts(ctx context.Context, again Probe, total func(name string) bool) (over bool) {
	for {
		newest := &c.open[len(c.open)-1]
		if !newest.ask(ctx, again, total) {
			return false
		}
		if len(c.open) == 2 || c.several || !c.twice && !newest.fell {
			return true
		}
		c.open = append(c.open, burst{last: newest.last})
	}
}

// judge takes what bursts that are over have shown of an instance. What is not certain
// adds nothing: lost rather than a spike.
func (c *counted) judge(bursts []burst) {
	falls := 0
	for _, b := range bursts {
		if b.fell {
			falls++
		}
	}
	switch {
	case c.several && falls > 0:
		c.clean = 0
	case c.several:
		if c.clean++; c.clean == cleanBursts {
			c.several, c.last = false, nil
		}
	case falls == 2:
		c.several, c.clean, c.doubt = true, 0, false
	case falls == 1:
		c.doubt, c.last = true, nil
	case c.doubt:
		c.doubt, c.last = false, nil
	}
}

// at is what is known of the instance that answered.
func (t *Totals) at(i InstanceReading) *counted {
	c := t.instances[i.Key]
	if c == nil {
		c = &counted{address: i.Address}
		t.instances[i.Key] = c
	}
	return c
}

// Add takes the readings of a cycle and returns the totals. They are nil where none can
// be known: no instance answered, or several do behind one address. Mixed names those
// addresses.
func (t *Totals) Add(o Observation) (totals map[string]float64, mixed []string) {
	if o.Healthy() == 0 {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cycle++
	sums, certain := map[string]float64{}, true
	for _, i := range o.Instances {
		if i.Status != Healthy {
			continue
		}
		c := t.at(i)
		if c.several {
			mixed = append(mixed, c.address)
		}
		certain = certain && !c.several && !c.doubt
		t.count(c, i.Counters, sums)
		c.last, c.cycle = i.Counters, t.cycle
	}
	// One that was silent for more than a cycle is new when it is back: what it has
	// counted meanwhile was not counted in the newest interval.
	maps.DeleteFunc(t.instances, func(_ string, c *counted) bool { return t.cycle-c.cycle > 1 })
	one := len(o.Instances) == 1 && certain && !t.begun
	t.begun = t.totals != nil
	if len(mixed) > 0 {
		slices.Sort(mixed)
		return nil, mixed
	}
	if t.totals != nil {
		t.begin(sums, one)
	}
	return maps.Clone(t.totals), nil
}

// count adds what an instance has counted since its last reading to the totals that
// have begun, and all it has counted to sums.
func (t *Totals) count(c *counted, counters, sums map[string]float64) {
	for name, value := range counters {
		if !t.service.Totals(name) {
			continue
		}
		sums[name] += value
		before, known := c.last[name]
		total, begun := t.totals[name]
		switch {
		case !known || !begun || c.several:
		case value >= before:
			t.totals[name] = total + value - before
		default: // it began again from zero
			t.totals[name] = total + value
		}
	}
}

// begin lets the totals begin that have not: one without a stored value at the sum of
// the readings. Those of a service that is one instance, in the first cycle of a term,
// begin at its reading, where that is more than what is stored.
func (t *Totals) begin(sums map[string]float64, one bool) {
	for _, counter := range t.service.Counters {
		total, stored := t.totals[counter.Name]
		if !counter.Gauge && (one || !stored) {
			t.totals[counter.Name] = max(total, sums[counter.Name])
		}
	}
}

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

	// totals are those that have begun: at what is stored, or what was read first.
	totals map[string]float64
	// resumed is that what is stored is known, begun that a cycle has been added since.
	resumed, begun bool
}

// counted is what is known of the instance at an address.
type counted struct {
	address string
	cycle   int // in which it answered last
	// last is what it said then; where it is nil, what it says next adds nothing.
	last  map[string]float64
	asked time.Time // in a burst
	// several is that several instances answer there, and clean how many bursts have
	// not shown it since. A doubt is a fall that only one of two bursts had.
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
	t.instances, t.totals, t.resumed, t.begun = map[string]*counted{}, nil, false, false
}

// Resume says what is stored of each counter; there are no totals before.
func (t *Totals) Resume(stored map[string]float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.resumed, t.totals = true, map[string]float64{}
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
	first, doubt := c.asked.IsZero(), c.doubt
	fell := !c.several && fallen(c.last, i.Counters, t.service.Totals)
	due := first || doubt || fell || time.Since(c.asked) >= askingEvery
	if due {
		c.asked = time.Now()
	}
	t.mu.Unlock()
	if !due {
		return
	}
	one, two := i.burst(ctx, t.service.Totals, i.Counters), burst{whole: true}
	if first || doubt || fell || one.fell {
		two = i.burst(ctx, t.service.Totals, one.last)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c.judge(one, two, fell)
}

// judge takes what one or two bursts have shown of an instance whose newest reading
// fell, or did not. What is not certain adds nothing: lost rather than a spike.
func (c *counted) judge(one, two burst, fell bool) {
	switch {
	case one.fell && two.fell:
		c.several, c.clean, c.doubt = true, 0, false
	case one.fell || two.fell:
		c.clean, c.doubt, c.last = 0, !c.several, nil
	case c.several:
		if c.clean++; c.clean == cleanBursts {
			c.several, c.last = false, nil
		}
	case c.doubt, fell && !(one.whole && two.whole):
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
	t.mu.Lock()
	defer t.mu.Unlock()
	if o.Healthy() == 0 {
		return nil, nil
	}
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
	t.begun = t.begun || t.resumed
	if len(mixed) > 0 {
		slices.Sort(mixed)
		return nil, mixed
	}
	if t.resumed {
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

package collectors

import (
	"slices"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// MetricsCollector appends the samples of every cycle to system_metrics. It gathers
// and stores in two loops: a store that is slow overlaps the next gathering, and never
// another store. What takes long is counted in a third.
type MetricsCollector struct {
	gatherer *gatherer
	counting *counting
	storer   *storer
	queue    *queue
}

// MetricsOptions are what a MetricsCollector works with.
type MetricsOptions struct {
	Targets  []probe.Target // of which those that count are asked
	Store    Store
	Lease    *lease.Lease
	Buffer   spool.Buffer // of what cannot be stored yet
	Interval time.Duration
	Observer Observer

	schedule  *schedule
	latencies *latencies
}

// NewMetricsCollector makes a collector that turns every interval.
func NewMetricsCollector(o MetricsOptions) *MetricsCollector {
	targets := slices.DeleteFunc(slices.Clone(o.Targets), func(t probe.Target) bool { return t.Kind != config.ProbeCounters })
	queue := newQueue(o.Buffer)
	counting := newCounting(o.Store, o.schedule, o.Observer)
	return &MetricsCollector{
		gatherer: &gatherer{
			targets: targets, store: o.Store, lease: o.Lease, queue: queue, counting: counting, latencies: o.latencies, observer: o.Observer,
			timeout:  min(probe.Timeout, o.Interval*8/10),
			counters: newCounterKeeper(targets),
			stamps:   stamps{clock: sampleClock{current: o.Lease.Now}},
			minutes:  minutes{},
			leftOut:  leftOut{},
		},
		counting: counting,
		storer:   newStorer(o.Store, o.Lease, queue, o.Observer),
		queue:    queue,
	}
}

// storeDeadline and besideDeadline bound one turn of their loops; each statement in
// it has a deadline of its own.
const (
	storeDeadline  = time.Minute
	besideDeadline = 3 * time.Hour
)

// loops are those that drive the collector.
func (c *MetricsCollector) loops(interval time.Duration) []*Loop {
	return []*Loop{
		{Name: MetricsLoop, Interval: interval, Deadline: interval * 9 / 10, Cycle: c.gatherer.cycle},
		{Name: StoreLoop, Trigger: c.queue.added, Deadline: storeDeadline, Cycle: c.storer.cycle},
		{Name: aggregateLoop, Trigger: c.counting.due, Deadline: besideDeadline, EndsAtOnce: true, Cycle: c.counting.beside},
	}
}

// Waiting is how many cycles wait to be stored, and the time of the oldest.
func (c *MetricsCollector) Waiting() (cycles int, oldest time.Time) { return c.queue.waiting() }

// supersede drops the cycles of a time that another replica has stored.
func (c *MetricsCollector) supersede(log zerolog.Logger, lastCycleAt time.Time) {
	if dropped := c.queue.supersede(log, lastCycleAt); len(dropped) > 0 {
		c.storer.observer.Superseded(countSamples(dropped))
	}
}

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

// metricsCollector appends the samples of every cycle to system_metrics. It gathers
// and stores in two loops: a store that is slow overlaps the next gathering, and never
// another store. What takes long is counted in a third.
type metricsCollector struct {
	gatherer *gatherer
	counting *counting
	storer   *storer
	queue    *queue // of the cycles that are gathered and not stored
}

// newMetricsCollector makes a collector that turns every interval, and asks those of
// the targets that count.
func newMetricsCollector(targets []probe.Target, store Store, lease *lease.Lease, buffer spool.Buffer, interval time.Duration, schedule *schedule, latencies *latencies, observer Observer) *metricsCollector {
	targets = slices.DeleteFunc(slices.Clone(targets), func(t probe.Target) bool { return t.Kind != config.ProbeCounters })
	queue := newQueue(buffer)
	counting := newCounting(store, schedule, observer)
	return &metricsCollector{
		gatherer: &gatherer{
			targets: targets, store: store, lease: lease, queue: queue, counting: counting, latencies: latencies, observer: observer,
			timeout:  min(probe.Timeout, interval*8/10),
			counters: newCounterKeeper(targets),
			stamps:   stamps{clock: sampleClock{current: lease.Now}},
			minutes:  minutes{},
			leftOut:  leftOut{},
		},
		counting: counting,
		storer:   newStorer(store, lease, queue, observer),
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
func (c *metricsCollector) loops(interval time.Duration) []*Loop {
	return []*Loop{
		{Name: MetricsLoop, Interval: interval, Deadline: interval * 9 / 10, Cycle: c.gatherer.cycle},
		{Name: StoreLoop, Trigger: c.queue.added, Deadline: storeDeadline, Cycle: c.storer.cycle},
		{Name: aggregateLoop, Trigger: c.counting.due, Deadline: besideDeadline, EndsAtOnce: true, Cycle: c.counting.beside},
	}
}

// supersede drops the cycles of a time that another replica has stored.
func (c *metricsCollector) supersede(log zerolog.Logger, lastCycleAt time.Time) {
	if dropped := c.queue.supersede(log, lastCycleAt); len(dropped) > 0 {
		c.storer.observer.Superseded(countSamples(dropped))
	}
}

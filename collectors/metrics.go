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

// metricsCollector appends the samples of every cycle to system_metrics. Gathering,
// storing and slow aggregates have a loop each: a slow store never delays the next
// cycle, and never overlaps another store.
type metricsCollector struct {
	gatherer *gatherer
	counting *counting
	storer   *storer
	queue    *queue
}

// newMetricsCollector makes a collector with a cycle every interval. It asks only the
// targets that have counters.
func newMetricsCollector(targets []probe.Target, store Store, lease *lease.Lease, buffer spool.Buffer, interval time.Duration, schedule *schedule, latencies *latencies, observer Observer) *metricsCollector {
	targets = slices.DeleteFunc(slices.Clone(targets), func(t probe.Target) bool { return t.Kind != config.ProbeCounters })
	queue := newQueue(buffer)
	counting := newCounting(store, schedule, observer)
	return &metricsCollector{
		gatherer: &gatherer{
			targets: targets, lease: lease, queue: queue, counting: counting, latencies: latencies, observer: observer,
			timeout:  min(probe.Timeout, interval*8/10),
			counters: newCounterKeeper(targets, store),
			clock:    sampleClock{current: lease.Now},
			stored:   stored{},
			leftOut:  leftOut{},
		},
		counting: counting,
		storer:   newStorer(store, lease, queue, observer),
		queue:    queue,
	}
}

// These bound one cycle of their loops. Each statement has a deadline of its own.
const (
	storeDeadline  = time.Minute
	besideDeadline = 3 * time.Hour
)

// loops are the three that drive the collector.
func (c *metricsCollector) loops(interval time.Duration) []*Loop {
	return []*Loop{
		{Name: MetricsLoop, Interval: interval, Deadline: interval * 9 / 10, Cycle: c.gatherer.cycle},
		{Name: StoreLoop, Trigger: c.queue.added, Deadline: storeDeadline, Cycle: c.storer.cycle},
		{Name: aggregateLoop, Trigger: c.counting.due, Deadline: besideDeadline, EndsAtOnce: true, Cycle: c.counting.beside},
	}
}

// supersede drops the cycles up to the newest that another replica has stored.
func (c *metricsCollector) supersede(log zerolog.Logger, lastCycleAt time.Time) {
	if dropped := c.queue.supersede(log, lastCycleAt); len(dropped) > 0 {
		c.storer.observer.Superseded(countSamples(dropped))
	}
}

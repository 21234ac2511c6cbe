package collectors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"
)

// A store statement takes at most this many samples: some tens of milliseconds.
const storeBatch = 1000

const (
	spoolBroken = "the spool cannot be written, cycles are kept in memory alone"
	spoolMended = "the spool is written again"
)

// longestStoreBackOff bounds how long after its return a database is noticed.
const longestStoreBackOff = 15 * time.Second

// MetricsCollector appends the samples of every cycle to system_metrics.
type MetricsCollector struct {
	services []Service
	store    Store
	lease    *Lease
	buffer   Buffer
	clock    sampleClock
	// timeout bounds the gathering half of a cycle.
	timeout time.Duration

	// While nothing can be stored (because of sick), that is not tried again
	// before retryAt.
	sick    error
	retry   *backoff.ExponentialBackOff
	retryAt time.Time

	spooling, overflowing streak
	aggregating           map[string]*change
	leftOut               map[string]int
	last                  Cycle
}

// NewMetricsCollector makes a collector that turns every interval and keeps in
// buffer what it cannot store.
func NewMetricsCollector(services []Service, store Store, lease *Lease, buffer Buffer, interval time.Duration) *MetricsCollector {
	return &MetricsCollector{
		services:    slices.DeleteFunc(slices.Clone(services), func(s Service) bool { return !s.Sampled }),
		store:       store,
		lease:       lease,
		buffer:      buffer,
		clock:       sampleClock{current: lease.Now},
		timeout:     min(probeTimeout, interval*6/10),
		retry:       newBackOff(longestStoreBackOff),
		aggregating: map[string]*change{},
		leftOut:     map[string]int{},
	}
}

// Cycle measures once and stores that, after whatever is still buffered.
func (c *MetricsCollector) Cycle(ctx context.Context) error {
	c.clock.raise(c.lease.LastCycleAt())
	c.clock.raise(c.buffer.Newest())
	cycle := Cycle{At: c.clock.stamp()}
	cycle.Samples = c.collect(ctx)
	c.last = cycle

	log := zerolog.Ctx(ctx)
	dropped, err := c.buffer.Push(cycle)
	c.spooling.observe(*log, err, spoolBroken, spoolMended)
	if dropped > 0 {
		c.overflowing.observe(*log, fmt.Errorf("%d cycles are waiting", c.buffer.Len()), "buffer is full, the oldest cycles are dropped", "")
	}
	return c.flush(ctx)
}

// Last returns the newest cycle; not while one runs.
func (c *MetricsCollector) Last() Cycle { return c.last }

// collect asks the services and the database at the same time.
func (c *MetricsCollector) collect(ctx context.Context) []Sample {
	gathering, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	aggregates := make(chan Aggregates, 1)
	go func() { aggregates <- c.readAggregates(gathering) }()
	observations := Observe(gathering, c.services, c.timeout)

	samples := make([]Sample, 0, 32)
	for _, o := range observations {
		samples = c.appendServiceSamples(ctx, samples, o)
	}
	a := <-aggregates
	if a.Answered && !isServerError(c.sick) {
		c.retryAt = time.Time{} // it is back: no need to wait for the back-off
	}
	c.logAggregates(ctx, a)
	samples = append(samples, a.Samples...)
	return append(samples, sampleOf(databaseService, "healthy", truth(a.Answered)))
}

// readAggregates asks the database in every cycle, also one that refuses to
// store: what it knows can be measured, and that it answers.
func (c *MetricsCollector) readAggregates(ctx context.Context) (result Aggregates) {
	defer recovered(ctx, func(err error) {
		result = Aggregates{Failed: map[string]error{"all": err}}
	})
	return c.store.Aggregates(ctx)
}

// logAggregates logs the aggregates that fail, each at its changes.
func (c *MetricsCollector) logAggregates(ctx context.Context, a Aggregates) {
	if !a.Answered {
		return // the store that follows says so
	}
	for name := range a.Failed {
		if c.aggregating[name] == nil {
			c.aggregating[name] = &change{}
		}
	}
	for name, s := range c.aggregating {
		log := zerolog.Ctx(ctx).With().Str("aggregate", name).Logger()
		s.observe(log, a.Failed[name], "aggregate failed, its samples are missing", "aggregate works again")
	}
}

// appendServiceSamples adds what one service reported. One that did not answer
// is healthy 0, without counters.
func (c *MetricsCollector) appendServiceSamples(ctx context.Context, samples []Sample, o Observation) []Sample {
	i := slices.IndexFunc(c.services, func(s Service) bool { return s.Name == o.Service })
	service := c.services[i]
	healthy := o.Status == Healthy
	if healthy {
		for _, name := range service.Counters {
			samples = append(samples, sampleOf(service.Name, name, o.Counters[name]))
		}
		if service.AllCounters {
			samples = c.appendAllCounters(ctx, samples, o)
		}
	}
	return append(samples, sampleOf(service.Name, "healthy", truth(healthy)))
}

// appendAllCounters adds every counter of a further service, in the order of
// their names. What is left out is logged when its number changes.
func (c *MetricsCollector) appendAllCounters(ctx context.Context, samples []Sample, o Observation) []Sample {
	leftOut := o.LeftOut
	for _, name := range slices.Sorted(maps.Keys(o.Counters)) {
		stored := sampleName(o.Service, name)
		_, taken := o.Counters[stored]
		// Twice the same name would be twice the same point; and "healthy" is
		// the collector's own word on the service.
		if name == "healthy" || (stored != name && taken) {
			leftOut++
			continue
		}
		samples = append(samples, sampleOf(o.Service, stored, o.Counters[name]))
	}
	if leftOut > c.leftOut[o.Service] {
		c.leftOut[o.Service] = leftOut
		zerolog.Ctx(ctx).Warn().Str("monitored", o.Service).Int("left_out", leftOut).
			Msg("counters left out: not a finite number, not a proper name, or one too many")
	}
	return samples
}

// flush stores the buffered cycles, oldest first, until none is left or the
// cycle's deadline is near. One store is in flight at any time.
func (c *MetricsCollector) flush(ctx context.Context) error {
	if !c.mayStore() {
		return c.sick
	}
	log := zerolog.Ctx(ctx)
	limit := storeBatch
	behind, samples := c.buffer.Len()-1, 0
	for c.buffer.Len() > 0 {
		if deadline, ok := ctx.Deadline(); ok && behind > 0 && time.Until(deadline) < c.timeout/4 {
			return nil // the rest is the next cycle's
		}
		batch := c.buffer.Oldest(limit)
		sent := time.Now()
		stored, now, err := c.store.AppendCycles(ctx, c.lease.Token(), batch)
		switch {
		case errors.Is(err, ErrLeaseLost):
			c.lease.Check()
			return fmt.Errorf("store samples, %d cycles are buffered: %w", c.buffer.Len(), err)
		case isRefusedData(err) && len(batch) > 1:
			limit = 1 // one cycle at a time, to find the one at fault
			continue
		case isRefusedData(err):
			log.Error().Err(err).Time("cycle", batch[0].At).Msg("the database refuses this cycle, it is dropped")
		case err != nil:
			if ctx.Err() != nil {
				err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
			c.sick = fmt.Errorf("store samples, cycles are buffered: %w", err)
			c.retryAt = time.Now().Add(c.retry.NextBackOff())
			return c.sick
		}
		if err == nil {
			c.lease.Renewed(now, sent)
		}
		samples += stored
		err = c.buffer.Remove(len(batch))
		c.spooling.observe(*log, err, spoolBroken, spoolMended)
	}
	if behind > 0 {
		// Fewer samples than the cycles have: an earlier attempt, or another
		// replica, has stored that time already.
		log.Info().Int("cycles", behind).Int("samples_stored", samples).Msg("buffered cycles caught up")
	}
	c.sick, c.retryAt = nil, time.Time{}
	c.retry.Reset()
	c.overflowing.observe(*log, nil, "", "buffer has room again")
	return nil
}

// mayStore reports whether all is well or the back-off is over.
func (c *MetricsCollector) mayStore() bool { return !time.Now().Before(c.retryAt) }

func sampleOf(service, metric string, value float64) Sample {
	return Sample{Metric: metric, Service: service, Tags: "{}", Value: value}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

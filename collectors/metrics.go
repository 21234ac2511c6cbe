package collectors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// A store statement takes at most this many samples: some tens of milliseconds.
// Where the database is slower, it takes fewer.
const storeBatch = 1000

const (
	spoolBroken = "the spool cannot be written, cycles are kept in memory alone"
	spoolMended = "the spool is written again"
)

// longestStoreBackOff bounds how long after its return a database is noticed.
const longestStoreBackOff = 15 * time.Second

// MetricsCollector appends the samples of every cycle to system_metrics. It
// gathers and stores in two loops: a store that is slow overlaps the next
// gathering, and never another store.
type MetricsCollector struct {
	targets []probe.Target
	store   Store
	lease   *lease.Lease
	clock   sampleClock
	// timeout bounds the gathering of a cycle.
	timeout  time.Duration
	storing  *backoffGate
	observer Observer
	// gathered is told of every cycle that waits to be stored, and besideDue that an
	// aggregate is due for which no cycle has time.
	gathered, besideDue chan struct{}
	pacer               *pacer
	latencies           *latencies // of the health monitor

	mu     sync.Mutex // of what both loops use; it is held while a disk hangs
	buffer spool.Buffer
	disk   faultlog.Log
	// What others ask for, who do not wait for the disk.
	backlog  atomic.Pointer[backlog]
	storedAt atomic.Pointer[time.Time] // when a store last succeeded

	// Of the gathering loop.
	overflowing faultlog.Log
	clockFaults faultlog.Log
	aggregating map[string]*faultlog.Log
	leftOut     map[string]int
	counters    *counterKeeper
	minutes     minutes
	last        spool.Cycle
	failed      []string // aggregates, in that cycle

	// Of the storing loop: how many samples a statement takes now, and whether
	// what waits may stand already, as an earlier process or an attempt whose
	// outcome is unknown has stored it.
	batch   int
	recheck bool
}

// backlog is what waits to be stored.
type backlog struct {
	cycles int
	oldest time.Time
}

// NewMetricsCollector makes a collector that turns every interval and keeps in
// buffer what it cannot store.
func NewMetricsCollector(targets []probe.Target, store Store, lease *lease.Lease, buffer spool.Buffer, interval time.Duration) *MetricsCollector {
	targets = slices.DeleteFunc(slices.Clone(targets), func(t probe.Target) bool { return t.Kind != config.ProbeCounters })
	c := &MetricsCollector{
		targets:     targets,
		counters:    newCounterKeeper(targets),
		store:       store,
		lease:       lease,
		buffer:      buffer,
		clock:       sampleClock{current: lease.Now},
		timeout:     min(probe.Timeout, interval*8/10),
		storing:     newBackoffGate(longestStoreBackOff),
		observer:    NoObserver,
		gathered:    make(chan struct{}, 1),
		besideDue:   make(chan struct{}, 1),
		pacer:       newPacer(db.Aggregates, interval, defaultBudget),
		latencies:   &latencies{},
		minutes:     minutes{},
		aggregating: map[string]*faultlog.Log{},
		leftOut:     map[string]int{},
		batch:       storeBatch,
		recheck:     buffer.Len() > 0,
	}
	c.buffered()
	return c
}

// defaultBudget is that of a collector that nobody gave one.
const defaultBudget = 0.02

// storeDeadline and besideDeadline bound one turn of their loops; each statement in
// it has a deadline of its own.
const (
	storeDeadline  = time.Minute
	besideDeadline = 3 * time.Hour
)

// loops are the two that drive the collector.
func (c *MetricsCollector) loops(interval time.Duration) []*Loop {
	return []*Loop{
		{Name: MetricsLoop, Interval: interval, Deadline: interval * 9 / 10, Cycle: c.Gather},
		{Name: StoreLoop, Trigger: c.gathered, Deadline: storeDeadline, Cycle: c.Store},
		{Name: aggregateLoop, Trigger: c.besideDue, Deadline: besideDeadline, EndsAtOnce: true, Cycle: c.CountBeside},
	}
}

// Once gathers all there is, however long the aggregates take, and stores.
func (c *MetricsCollector) Once(ctx context.Context) error {
	c.timeout = probe.Timeout // no next cycle is due
	c.begin()
	c.countBeside(ctx, c.pacer.takeAll())
	if err := c.Gather(ctx); err != nil {
		return err
	}
	return c.Store(ctx)
}

// CountBeside reads the aggregate that is due for which no cycle has time.
func (c *MetricsCollector) CountBeside(ctx context.Context) error {
	if next, ok := c.pacer.nextBeside(time.Now()); ok {
		c.countBeside(ctx, []db.Aggregate{next})
	}
	return nil // a failure is the next cycle's to log
}

func (c *MetricsCollector) countBeside(ctx context.Context, list []db.Aggregate) {
	a := c.readAggregates(ctx, list, c.store.AggregatesBeside)
	if ctx.Err() != nil {
		a = failedAll(list, ctx.Err()) // how long it takes is not known
	}
	c.counted(ctx, list, &a, true)
}

// counted takes a reading, and says which aggregates are counted half or twice as
// often as before.
func (c *MetricsCollector) counted(ctx context.Context, list []db.Aggregate, a *Aggregates, beside bool) {
	for _, p := range c.pacer.counted(list, a, beside) {
		zerolog.Ctx(ctx).Info().Str("aggregate", p.aggregate).Dur("took_ms", p.cost).
			Stringer("every", p.every.Round(time.Second/10)).Stringer("before", p.was.Round(time.Second/10)).Msg("aggregate has another pace")
	}
	for _, l := range list {
		cost, every := c.pacer.paceOf(l.Name)
		c.observer.Counted(l.Name, cost, every, a.Failed[l.Name] != nil)
	}
}

// Gather measures what is due and leaves the cycle to Store.
func (c *MetricsCollector) Gather(ctx context.Context) error {
	log := zerolog.Ctx(ctx)
	begin := time.Now()
	cycle := spool.Cycle{At: c.stamp(*log)}
	cycle.Samples = c.storable(ctx, c.collect(ctx, cycle.At))
	c.last = cycle
	log.Debug().Time("cycle", cycle.At).Int("samples", len(cycle.Samples)).Dur("duration_ms", time.Since(begin)).Msg("cycle gathered")

	c.mu.Lock()
	dropped, err := c.buffer.Push(cycle)
	waiting := c.buffered()
	c.disk.Observe(*log, err, spoolBroken, spoolMended)
	c.mu.Unlock()
	var overflow error
	if len(dropped) > 0 {
		c.observer.Dropped(countSamples(dropped))
		overflow = fmt.Errorf("%d cycles are waiting", waiting)
	}
	c.overflowing.Observe(*log, overflow, "buffer is full, the oldest cycles are dropped", "buffer has room again")
	select {
	case c.gathered <- struct{}{}:
	default: // the store that is due takes this cycle too
	}
	return nil
}

// Last returns the newest cycle; not while one is gathered.
func (c *MetricsCollector) Last() spool.Cycle { return c.last }

// FailedAggregates are those whose samples the newest cycle lacks.
func (c *MetricsCollector) FailedAggregates() []string { return c.failed }

// stamp is the time of the cycle that begins now.
func (c *MetricsCollector) stamp(log zerolog.Logger) time.Time {
	c.clock.notBefore(c.lease.LastCycleAt())
	c.mu.Lock()
	c.clock.notBefore(c.buffer.Newest())
	c.mu.Unlock()
	at, wasAhead := c.clock.stamp()
	var fault error
	if wasAhead > 0 {
		fault = fmt.Errorf("samples were stamped %s ahead", wasAhead.Round(time.Second))
	}
	c.clockFaults.Observe(log, fault, "the database's clock was wrong, samples go back to the true time", "the database's clock is steady")
	return at
}

// storable leaves out the samples that no table takes.
func (c *MetricsCollector) storable(ctx context.Context, samples []spool.Sample) []spool.Sample {
	leftOut := 0
	samples = slices.DeleteFunc(samples, func(s spool.Sample) bool {
		err := s.Storable()
		if err != nil {
			if leftOut++; leftOut > c.leftOut[""] {
				zerolog.Ctx(ctx).Warn().Str("metric", faultlog.PlainText(s.Metric)).Err(err).Msg("sample left out")
			}
		}
		return err != nil
	})
	c.leftOut[""] = max(c.leftOut[""], leftOut)
	return samples
}

// collect asks the services and the database at the same time, for the cycle of a
// time.
func (c *MetricsCollector) collect(ctx context.Context, at time.Time) []spool.Sample {
	gathering, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	c.begin()
	var counting, resuming sync.WaitGroup
	defer resuming.Wait() // also where this one panics: the next cycle finds nobody
	defer counting.Wait()
	var a Aggregates
	counting.Go(func() {
		defer faultlog.Recovered(ctx, func(error) {})
		a = c.countDue(gathering, minuteOf(at))
	})
	resuming.Go(func() {
		defer faultlog.Recovered(ctx, func(error) {})
		c.counters.resume(gathering, c.store, c.waitingCycles)
	})
	observations := probe.Observe(gathering, c.targets, c.timeout)
	c.observer.Probed(observations)
	resuming.Wait()

	withGauges := c.minutes.first("further gauges", at)
	samples := make([]spool.Sample, 0, 96+2*len(observations))
	for i, o := range observations {
		samples = c.appendServiceSamples(ctx, samples, c.targets[i], o, withGauges)
	}
	counting.Wait()
	if a.Answered {
		// The database is back: a store need not wait for its back-off, unless the
		// database itself has refused it.
		c.storing.openAfter(func(err error) bool { return !db.IsServerError(err) })
	}
	c.logAggregates(ctx, a)
	samples = append(samples, a.all()...)
	samples = append(samples, c.latencies.take(c.lease.Token(), func() bool { return c.minutes.first(config.LatencySample, at) })...)
	return append(samples, sampleOf(config.DatabaseService, config.HealthSample, boolValue(a.Answered)))
}

// begin starts a term, where the lease's token is another's.
func (c *MetricsCollector) begin() {
	if c.counters.begin(c.lease.Token()) {
		c.pacer.beginTerm()
	}
}

// countDue asks the database in every cycle, also one that refuses to store: what it
// knows can be measured, and that it answers. What was counted beside the cycles
// meanwhile is in this one.
func (c *MetricsCollector) countDue(ctx context.Context, minute time.Time) Aggregates {
	began := time.Now()
	list := c.pacer.due(began, minute)
	a := c.readAggregates(ctx, list, c.store.Aggregates)
	c.observer.Aggregated(time.Since(began))
	c.counted(ctx, list, &a, false)
	if c.pacer.besideIsDue(began) {
		select {
		case c.besideDue <- struct{}{}:
		default: // one is being counted
		}
	}
	landed := c.pacer.takeLanded()
	landed.merge(a)
	landed.Answered = a.Answered
	return landed
}

// readAggregates reads some aggregates in one of the store's ways.
func (c *MetricsCollector) readAggregates(ctx context.Context, list []db.Aggregate, read func(context.Context, []db.Aggregate) Aggregates) (a Aggregates) {
	defer faultlog.Recovered(ctx, func(err error) { a = failedAll(list, err) })
	return read(ctx, list)
}

// logAggregates logs the aggregates that fail, each at its changes.
func (c *MetricsCollector) logAggregates(ctx context.Context, a Aggregates) {
	c.failed = slices.Sorted(maps.Keys(a.Failed))
	for name := range a.Failed {
		if c.aggregating[name] == nil {
			c.aggregating[name] = &faultlog.Log{}
		}
	}
	for name, faults := range c.aggregating {
		err := a.Failed[name]
		_, counted := a.Took[name]
		switch {
		case err == nil && !counted: // it was not due
		case err != nil && !db.IsServerError(err) && !a.Answered:
			// The store that follows says so.
		default:
			log := zerolog.Ctx(ctx).With().Str("aggregate", name).Logger()
			faults.Observe(log, err, "aggregate failed, its samples are missing", "aggregate works again")
		}
	}
}

// appendServiceSamples adds what one service reported. One that did not answer
// is healthy 0, without counters.
func (c *MetricsCollector) appendServiceSamples(ctx context.Context, samples []spool.Sample, target probe.Target, o probe.Observation, withGauges bool) []spool.Sample {
	switch {
	case target.AllCounters && o.Status == probe.Healthy:
		samples = c.appendAllCounters(ctx, samples, o)
	case !target.AllCounters && o.Healthy() > 0:
		samples = c.counters.append(ctx, samples, o, withGauges)
	}
	if n := len(o.Instances); n > 1 {
		samples = append(samples, sampleOf(target.Name, config.InstancesSample, float64(n)),
			sampleOf(target.Name, config.InstancesHealthySample, float64(o.Healthy())))
	}
	return append(samples, sampleOf(target.Name, config.HealthSample, boolValue(o.Up())))
}

// appendAllCounters adds every counter of an extra service, in the order of
// their names. What is left out is logged when its number changes.
func (c *MetricsCollector) appendAllCounters(ctx context.Context, samples []spool.Sample, o probe.Observation) []spool.Sample {
	leftOut := o.LeftOut
	for _, name := range slices.Sorted(maps.Keys(o.Counters)) {
		stored := sampleName(o.Service, name)
		_, taken := o.Counters[stored]
		// Twice the same name would be twice the same point; and that of its health is
		// the collector's own word on the service.
		if name == config.HealthSample || (stored != name && taken) {
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

// Store stores the buffered cycles, oldest first, until none is left. One store
// is in flight at any time.
func (c *MetricsCollector) Store(ctx context.Context) error {
	if err := c.storing.shut(); err != nil {
		return err
	}
	behind, samples := c.waiting()-1, 0
	for {
		c.mu.Lock()
		batch, through := c.buffer.Oldest(c.batch)
		c.mu.Unlock()
		if len(batch) == 0 {
			break
		}
		stored, err := c.storeBatch(ctx, batch)
		if db.IsTimeout(err) && len(batch) > 1 && ctx.Err() == nil {
			c.batch = max(countSamples(batch)/2, 1)
			continue
		}
		if err != nil {
			return c.refused(ctx, err)
		}
		c.batch = min(c.batch*2, storeBatch)
		samples += stored
		c.observer.Stored(stored)
		c.mu.Lock()
		c.disk.Observe(*zerolog.Ctx(ctx), c.buffer.Remove(through), spoolBroken, spoolMended)
		c.buffered()
		c.mu.Unlock()
	}
	if behind > 0 {
		// Fewer samples than the cycles have: an earlier attempt, or another
		// replica, has stored that time already.
		zerolog.Ctx(ctx).Info().Int("cycles", behind).Int("samples_stored", samples).Msg("buffered cycles caught up")
	}
	c.recheck = false
	c.storing.succeeded()
	now := time.Now()
	c.storedAt.Store(&now)
	return nil
}

// DropSuperseded drops the cycles up to the newest that another replica has stored:
// these can never be stored.
func (c *MetricsCollector) DropSuperseded(log zerolog.Logger, lastCycleAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting, through := c.buffer.Oldest(math.MaxInt)
	left := slices.IndexFunc(waiting, func(cycle spool.Cycle) bool { return cycle.At.After(lastCycleAt) })
	switch left {
	case 0:
		return
	case -1:
		left = len(waiting)
	}
	superseded := waiting[:left]
	if len(superseded) == 0 {
		return
	}
	c.disk.Observe(log, c.buffer.Remove(through-uint64(len(waiting)-left)), spoolBroken, spoolMended)
	c.buffered()
	c.observer.Superseded(countSamples(superseded))
	log.Info().Int("cycles", left).Time("through", lastCycleAt).Msg("buffered cycles superseded: another replica has stored that time")
}

// waitingCycles are those that wait to be stored.
func (c *MetricsCollector) waitingCycles() []spool.Cycle {
	c.mu.Lock()
	defer c.mu.Unlock()
	cycles, _ := c.buffer.Oldest(math.MaxInt)
	return cycles
}

// buffered notes what waits to be stored, and returns how many cycles do.
func (c *MetricsCollector) buffered() int {
	waits := backlog{cycles: c.buffer.Len()}
	if first, _ := c.buffer.Oldest(0); len(first) > 0 {
		waits.oldest = first[0].At
	}
	c.backlog.Store(&waits)
	return waits.cycles
}

// Waiting is how many cycles wait to be stored, and the time of the oldest.
func (c *MetricsCollector) Waiting() (cycles int, oldest time.Time) {
	waits := c.backlog.Load()
	return waits.cycles, waits.oldest
}

func (c *MetricsCollector) waiting() int { return c.backlog.Load().cycles }

// StoredAt is when a store last succeeded; zero before the first.
func (c *MetricsCollector) StoredAt() time.Time {
	if at := c.storedAt.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// storeBatch sends one store.
func (c *MetricsCollector) storeBatch(ctx context.Context, batch []spool.Cycle) (stored int, err error) {
	sent := time.Now()
	stored, now, err := c.store.AppendCycles(ctx, c.lease.Token(), batch, c.recheck)
	if err == nil {
		c.lease.Renewed(now, sent)
	} else {
		c.recheck = true
	}
	zerolog.Ctx(ctx).Debug().Int("cycles", len(batch)).Int("samples", stored).Dur("duration_ms", time.Since(sent)).Err(err).Msg("cycles stored")
	return stored, err
}

// refused says what becomes of cycles that could not be stored. They wait,
// whatever the reason: what the table refuses, an operator can mend.
func (c *MetricsCollector) refused(ctx context.Context, err error) error {
	if errors.Is(err, lease.ErrLost) {
		c.lease.RenewNow()
		return fmt.Errorf("store samples, %d cycles are buffered: %w", c.waiting(), err)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	err = fmt.Errorf("store samples, cycles are buffered: %w", err)
	c.storing.failed(err)
	return err
}

func countSamples(cycles []spool.Cycle) int {
	n := 0
	for _, c := range cycles {
		n += len(c.Samples)
	}
	return n
}

func sampleOf(service, metric string, value float64) spool.Sample {
	return spool.Sample{Metric: metric, Service: service, Tags: "{}", Value: value}
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

package collectors

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/spool"
)

// Reading is the result of one aggregate.
type Reading struct {
	Samples  []spool.Sample
	Took     time.Duration // of its call; 0 if unknown
	Err      error
	TimedOut bool // Err is a timeout
}

// Readings are the results of the aggregates that were due.
type Readings struct {
	Answered bool               // the database answered at all
	Of       map[string]Reading // by the aggregate's name
}

// counting reads the aggregates: fast ones in a cycle, slow ones beside the cycles.
type counting struct {
	store    Store
	schedule *schedule
	observer Observer
	due      chan struct{} // signals that an aggregate may be due beside the cycles

	mu     sync.Mutex
	cycle  time.Time // the newest
	landed Readings  // counted beside the cycles, and not yet in one

	faults map[string]*faultlog.Log // of each aggregate that has failed
	failed []string                 // in the newest cycle
}

func newCounting(store Store, schedule *schedule, observer Observer) *counting {
	return &counting{store: store, schedule: schedule, observer: observer, due: make(chan struct{}, 1), faults: map[string]*faultlog.Log{}}
}

// inCycle reads what is due in the cycle at this time, and adds what was counted beside
// the cycles meanwhile. It asks the database in every cycle, to show that it answers.
func (c *counting) inCycle(ctx context.Context, cycle time.Time) Readings {
	began := time.Now()
	list := c.schedule.begin(began, cycle)
	now := c.read(ctx, list, c.store.Aggregates)
	c.observer.Aggregated(time.Since(began))
	c.ended(ctx, now, false)
	c.mu.Lock()
	c.cycle = cycle
	c.mu.Unlock()
	select {
	case c.due <- struct{}{}:
	default: // the loop is busy with another
	}
	all := c.takeLanded()
	all.Answered = now.Answered
	for name, r := range now.Of {
		if !r.TimedOut { // else it is due again, beside the cycles
			all.set(name, r)
		}
	}
	return all
}

// takeLanded returns what was counted beside the cycles since the last call.
func (c *counting) takeLanded() (landed Readings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	landed, c.landed = c.landed, Readings{}
	return landed
}

// beside reads the slow aggregate that has been due for longest, if there is one.
func (c *counting) beside(ctx context.Context) error {
	c.mu.Lock()
	cycle := c.cycle
	c.mu.Unlock()
	next, ok := c.schedule.beginBeside(time.Now(), cycle)
	if !ok {
		return nil
	}
	r := c.read(ctx, []db.Aggregate{next}, c.store.AggregatesBeside)
	if ctx.Err() != nil {
		r = failedAll([]db.Aggregate{next}, ctx.Err()) // without a time: it was cut short
	}
	c.ended(ctx, r, true)
	if reading := r.Of[next.Name]; reading.Err == nil || reading.TimedOut || db.IsServerError(reading.Err) {
		c.mu.Lock()
		c.landed.set(next.Name, reading)
		c.mu.Unlock()
	}
	return nil // the next cycle logs a failure
}

// all reads every aggregate, however long that takes.
func (c *counting) all(ctx context.Context) Readings {
	var list []db.Aggregate
	for _, e := range c.schedule.list {
		list = append(list, e.Aggregate)
	}
	return c.read(ctx, list, c.store.AggregatesBeside)
}

// read reads aggregates by one of the store's methods. A panic fails them all.
func (c *counting) read(ctx context.Context, list []db.Aggregate, method func(context.Context, []db.Aggregate) Readings) (r Readings) {
	defer faultlog.Recovered(ctx, func(err error) { r = failedAll(list, err) })
	return method(ctx, list)
}

// ended takes readings, and logs the aggregates that are now counted half or twice as
// often as before.
func (c *counting) ended(ctx context.Context, r Readings, beside bool) {
	for _, p := range c.schedule.ended(r, beside) {
		zerolog.Ctx(ctx).Info().Str("aggregate", p.name).Dur("took_ms", p.cost).
			Stringer("every", p.every.Round(time.Second/10)).Stringer("before", p.was.Round(time.Second/10)).Msg("aggregate has another pace")
	}
	for name, reading := range r.Of {
		if reading.TimedOut && !beside {
			continue // it is read again, beside the cycles
		}
		cost, every := c.schedule.paceOf(name)
		c.observer.Counted(name, cost, every, reading.Err != nil)
	}
}

// log logs when an aggregate begins to fail, and when it works again.
func (c *counting) log(ctx context.Context, r Readings) {
	c.failed = r.failed()
	for _, name := range c.failed {
		if c.faults[name] == nil {
			c.faults[name] = &faultlog.Log{}
		}
	}
	for name, faults := range c.faults {
		reading, due := r.Of[name]
		if !due || reading.Err != nil && !db.IsServerError(reading.Err) && !r.Answered {
			continue // the store that follows logs that the database does not answer
		}
		log := zerolog.Ctx(ctx).With().Str("aggregate", name).Logger()
		faults.Observe(log, reading.Err, "aggregate failed, its samples are missing", "aggregate works again")
	}
}

func (r *Readings) set(name string, reading Reading) {
	if r.Of == nil {
		r.Of = map[string]Reading{}
	}
	r.Of[name] = reading
}

// samples returns the samples of all aggregates, in the order of their names.
func (r *Readings) samples() (samples []spool.Sample) {
	for _, name := range slices.Sorted(maps.Keys(r.Of)) {
		samples = append(samples, r.Of[name].Samples...)
	}
	return samples
}

// failed returns the names of the aggregates that failed.
func (r *Readings) failed() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(r.Of)) {
		if r.Of[name].Err != nil {
			names = append(names, name)
		}
	}
	return names
}

func failedAll(list []db.Aggregate, err error) (r Readings) {
	for _, a := range list {
		r.set(a.Name, Reading{Err: err})
	}
	return r
}

// readAggregates reads aggregates in one transaction. An empty list makes one too, to
// show that the database answers. An aggregate that fails ends the transaction, and the
// rest are read in another: a missing table costs only its own samples. If the
// connection fails, so does all that is left.
func readAggregates(ctx context.Context, client *db.Client, list []db.Aggregate) (r Readings) {
	for {
		limit := aggregateLimit(ctx, client.Limit)
		var began time.Time // the call under way
		err := client.ReadWithin(ctx, db.Limits{Statement: limit, Lock: limit / 4}, func(ctx context.Context, q *db.Queries) error {
			r.Answered, began = true, time.Now()
			return db.ReadAggregates(ctx, q, list, func(a db.Aggregate, samples []db.Sample, took time.Duration) {
				r.set(a.Name, Reading{Samples: finite(samples), Took: took})
				list, began = list[1:], time.Now()
			})
		})
		switch {
		case len(list) == 0:
			return r // even if the commit fails: there was nothing to write
		case ctx.Err() != nil || !db.IsServerError(err):
			for _, a := range list {
				r.set(a.Name, Reading{Err: err, TimedOut: !began.IsZero() && ctx.Err() != nil})
			}
			return r
		}
		failed := Reading{Err: explain(err, readAdvice)}
		if db.IsTimeout(err) {
			failed.Took, failed.TimedOut = time.Since(began), true
		}
		r.set(list[0].Name, failed)
		if list = list[1:]; len(list) == 0 {
			return r
		}
	}
}

// aggregateLimit is how long the server may take over one aggregate: less than the
// time for all, so that the server ends a slow one before the worker must give up the
// connection, and with it the others.
func aggregateLimit(ctx context.Context, longest time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(longest, time.Until(deadline)*2/3)
	}
	return longest
}

// finite leaves out NaN and the infinities, which no chart can show.
func finite(rows []db.Sample) (samples []spool.Sample) {
	for _, r := range rows {
		if !math.IsNaN(r.Value) && !math.IsInf(r.Value, 0) {
			samples = append(samples, spool.Sample{Metric: r.MetricName, Service: r.Service, Tags: r.Tags, Value: r.Value})
		}
	}
	return samples
}

// How to mend an error about row-level security.
const (
	readAdvice = "nothing was counted: let the worker read past the policies with " +
		"GRANT pulse_operator TO <the worker's login role> (pulse_operator needs BYPASSRLS, and SELECT on the table)"
	alertAdvice = "no alert was opened or closed: let the worker write past the policies with " +
		"GRANT pulse_operator TO <the worker's login role>, and " +
		"GRANT SELECT, INSERT, UPDATE ON fleet_alert, SELECT, INSERT ON tenants and USAGE ON SEQUENCE fleet_alert_id_seq TO pulse_operator"
)

// explain adds advice to an error about row-level security, in which the server names
// only the table.
func explain(err error, advice string) error {
	if !db.IsRowSecurity(err) {
		return err
	}
	return fmt.Errorf("row-level security would hide rows from this role, so %s: %w", advice, err)
}

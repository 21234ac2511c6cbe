package collectors

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// gatherer measures the samples of each cycle, and adds it to the queue.
type gatherer struct {
	targets   []probe.Target
	lease     *lease.Lease
	queue     *queue
	counting  *counting
	latencies *latencies // of the health monitor
	observer  Observer
	timeout   time.Duration // of a probe, and of all that a cycle measures

	counters *counterKeeper
	clock    sampleClock
	stored   stored
	leftOut  leftOut
	overflow faultlog.Log
	last     spool.Cycle
}

// cycle gathers a cycle with the aggregates that are due.
func (g *gatherer) cycle(ctx context.Context) error {
	g.gather(ctx, g.timeout, g.counting.inCycle)
	return nil
}

// once gathers a cycle with every aggregate, however long they take.
func (g *gatherer) once(ctx context.Context) {
	all := g.counting.all(ctx)
	g.gather(ctx, probe.Timeout, func(context.Context, time.Time) Readings { return all })
}

// gather adds a cycle of what the services and count return within timeout.
func (g *gatherer) gather(ctx context.Context, timeout time.Duration, count func(context.Context, time.Time) Readings) {
	log := zerolog.Ctx(ctx)
	begin := time.Now()
	if g.counters.begin(g.lease.Token()) {
		g.counting.takeLanded() // and drop it: it was counted in an earlier term
	}
	cycle := spool.Cycle{At: g.clock.next(*log, g.lease.LastCycleAt(), g.queue.newest())}
	cycle.Samples = g.leftOut.storable(*log, g.measure(ctx, timeout, cycle.At, count))
	g.last = cycle
	log.Debug().Time("cycle", cycle.At).Int("samples", len(cycle.Samples)).Dur("duration_ms", time.Since(begin)).Msg("cycle gathered")

	var overflow error
	if dropped := g.queue.add(*log, cycle); len(dropped) > 0 {
		g.observer.Dropped(countSamples(dropped))
		waiting, _ := g.queue.waiting()
		overflow = fmt.Errorf("%d cycles are waiting", waiting)
	}
	g.overflow.Observe(*log, overflow, "buffer is full, the oldest cycles are dropped", "buffer has room again")
}

// measure asks the services and the database in parallel, for the cycle at a time.
func (g *gatherer) measure(ctx context.Context, timeout time.Duration, at time.Time, count func(context.Context, time.Time) Readings) []spool.Sample {
	measuring, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var reading, resuming sync.WaitGroup
	defer resuming.Wait() // even after a panic: none of them may meet the next cycle
	defer reading.Wait()
	var readings Readings
	reading.Go(func() {
		defer faultlog.Recovered(ctx, func(error) {})
		readings = count(measuring, at)
	})
	resuming.Go(func() {
		defer faultlog.Recovered(ctx, func(error) {})
		g.counters.resume(measuring, g.queue)
	})
	observations := probe.Observe(measuring, g.targets, timeout)
	g.observer.Probed(observations)
	resuming.Wait()

	samples := make([]spool.Sample, 0, 96+2*len(observations))
	for i, o := range observations {
		samples = g.appendService(ctx, samples, g.targets[i], o, at)
	}
	reading.Wait()
	g.counting.log(ctx, readings)
	samples = g.appendAggregates(samples, readings, at)
	samples = append(samples, g.latencies.take(g.lease.Token(), func() bool { return g.stored.due(config.LatencySample, time.Minute, at) })...)
	return append(samples, sampleOf(config.DatabaseService, config.HealthSample, boolValue(readings.Answered)))
}

// appendService adds what one service reported. A service that did not answer has only
// the sample healthy, and its rates, with 0.
func (g *gatherer) appendService(ctx context.Context, samples []spool.Sample, target probe.Target, o probe.Observation, at time.Time) []spool.Sample {
	switch {
	case !target.Extra:
		minutely := o.Healthy() > 0 && g.stored.due(target.Name, time.Minute, at)
		samples = g.counters.append(ctx, samples, o, at, minutely)
	case o.Status == probe.Healthy:
		samples = g.appendAllCounters(ctx, samples, o)
	}
	if n := len(o.Instances); n > 1 {
		samples = append(samples, sampleOf(target.Name, config.InstancesSample, float64(n)),
			sampleOf(target.Name, config.InstancesHealthySample, float64(o.Healthy())))
	}
	return append(samples, sampleOf(target.Name, config.HealthSample, boolValue(o.Up())))
}

// appendAllCounters adds every counter of an extra service, in the order of their
// names.
func (g *gatherer) appendAllCounters(ctx context.Context, samples []spool.Sample, o probe.Observation) []spool.Sample {
	left := o.LeftOut
	for _, name := range slices.Sorted(maps.Keys(o.Counters)) {
		stored := sampleName(o.Service, name)
		_, taken := o.Counters[stored]
		// Two samples of one name would be two values of one point. The name of the
		// sample healthy belongs to the worker.
		if name == config.HealthSample || (stored != name && taken) {
			left++
			continue
		}
		samples = append(samples, sampleOf(o.Service, stored, o.Counters[name]))
	}
	if g.leftOut.more(o.Service, left) {
		zerolog.Ctx(ctx).Warn().Str("monitored", o.Service).Int("left_out", left).
			Msg("counters left out: not a finite number, not a proper name, or one too many")
	}
	return samples
}

// appendAggregates adds what the database counted, without what a monitored service reports
// itself, and some of it less often than its query yields it.
func (g *gatherer) appendAggregates(samples []spool.Sample, readings Readings, at time.Time) []spool.Sample {
	for _, s := range readings.samples() {
		if g.counters.services[s.Service] != nil {
			continue
		}
		if every := seldom[s.Metric]; every > 0 && !g.stored.due(s.Metric, every, at) {
			continue
		}
		samples = append(samples, s)
	}
	return samples
}

// pageSeries are the series that the platform's pages read by name alone: a sample of
// another service would mix two series in one chart. docs/pages.md has the pages.
var pageSeries = []string{
	"messages_written", "queue_depth", "jobs_pending", "jobs_failed",
	"devices_online", "devices_stale", "alerts_open", "connections",
}

// sampleName is the name under which an extra service's counter is stored: with the
// service's name as a prefix where its own belongs to the pages or to the worker.
func sampleName(service, counter string) string {
	if slices.Contains(pageSeries, counter) || counter == config.LatencySample {
		return service + "_" + counter
	}
	return counter
}

// leftOut is the highest number of samples left out of a cycle, by service; the key ""
// is for all services together. Only a new maximum is logged.
type leftOut map[string]int

// more notes how many are left out now, and reports whether that is a new maximum.
func (l leftOut) more(service string, n int) bool {
	before := l[service]
	l[service] = max(before, n)
	return n > before
}

// storable leaves out the samples that cannot be stored in the table.
func (l leftOut) storable(log zerolog.Logger, samples []spool.Sample) []spool.Sample {
	n := 0
	return slices.DeleteFunc(samples, func(s spool.Sample) bool {
		err := s.Storable()
		if err == nil {
			return false
		}
		if n++; l.more("", n) {
			log.Warn().Str("metric", faultlog.PlainText(s.Metric)).Err(err).Msg("sample left out")
		}
		return true
	})
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

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

// gatherer measures, and leaves the cycles in a queue.
type gatherer struct {
	targets   []probe.Target
	store     Store
	lease     *lease.Lease
	queue     *queue
	counting  *counting
	latencies *latencies // of the health monitor
	observer  Observer
	timeout   time.Duration // of a probe, and of all of a cycle

	counters *counterKeeper
	stamps   stamps
	minutes  minutes
	leftOut  leftOut
	overflow faultlog.Log
	last     spool.Cycle
}

// cycle measures what is due.
func (g *gatherer) cycle(ctx context.Context) error {
	g.gather(ctx, g.timeout, g.counting.inCycle)
	return nil
}

// once measures all there is, however long the aggregates take.
func (g *gatherer) once(ctx context.Context) {
	all := g.counting.all(ctx)
	g.gather(ctx, probe.Timeout, func(context.Context, time.Time) Readings { return all })
}

// gather makes a cycle of what the services and count answer in time.
func (g *gatherer) gather(ctx context.Context, timeout time.Duration, count func(context.Context, time.Time) Readings) {
	log := zerolog.Ctx(ctx)
	begin := time.Now()
	if g.counters.begin(g.lease.Token()) {
		g.counting.beginTerm()
	}
	cycle := spool.Cycle{At: g.stamps.next(*log, g.lease.LastCycleAt(), g.queue.newest())}
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

// measure asks the services and the database at the same time, for the cycle of a
// time.
func (g *gatherer) measure(ctx context.Context, timeout time.Duration, at time.Time, count func(context.Context, time.Time) Readings) []spool.Sample {
	measuring, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var counting, resuming sync.WaitGroup
	defer resuming.Wait() // also where this one panics: the next cycle finds nobody
	defer counting.Wait()
	var readings Readings
	counting.Go(func() {
		defer faultlog.Recovered(ctx, func(error) {})
		readings = count(measuring, at)
	})
	resuming.Go(func() {
		defer faultlog.Recovered(ctx, func(error) {})
		g.counters.resume(measuring, g.store, g.queue.all)
	})
	observations := probe.Observe(measuring, g.targets, timeout)
	g.observer.Probed(observations)
	resuming.Wait()

	withGauges := g.minutes.first("further gauges", at)
	samples := make([]spool.Sample, 0, 96+2*len(observations))
	for i, o := range observations {
		samples = g.appendService(ctx, samples, g.targets[i], o, withGauges)
	}
	counting.Wait()
	g.counting.log(ctx, readings)
	samples = append(samples, readings.samples()...)
	samples = append(samples, g.latencies.take(g.lease.Token(), func() bool { return g.minutes.first(config.LatencySample, at) })...)
	return append(samples, sampleOf(config.DatabaseService, config.HealthSample, boolValue(readings.Answered)))
}

// appendService adds what one service reported. One that did not answer is healthy 0,
// without counters.
func (g *gatherer) appendService(ctx context.Context, samples []spool.Sample, target probe.Target, o probe.Observation, withGauges bool) []spool.Sample {
	switch {
	case target.AllCounters && o.Status == probe.Healthy:
		samples = g.appendAllCounters(ctx, samples, o)
	case !target.AllCounters && o.Healthy() > 0:
		samples = g.counters.append(ctx, samples, o, withGauges)
	}
	if n := len(o.Instances); n > 1 {
		samples = append(samples, sampleOf(target.Name, config.InstancesSample, float64(n)),
			sampleOf(target.Name, config.InstancesHealthySample, float64(o.Healthy())))
	}
	return append(samples, sampleOf(target.Name, config.HealthSample, boolValue(o.Up())))
}

// appendAllCounters adds every counter of an extra service, in the order of
// their names.
func (g *gatherer) appendAllCounters(ctx context.Context, samples []spool.Sample, o probe.Observation) []spool.Sample {
	left := o.LeftOut
	for _, name := range slices.Sorted(maps.Keys(o.Counters)) {
		stored := sampleName(o.Service, name)
		_, taken := o.Counters[stored]
		// Twice the same name would be twice the same point; and that of its health is
		// the collector's own word on the service.
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

// leftOut is how many numbers of a service are not stored, at most; those of all
// together are under no name.
type leftOut map[string]int

// more notes how many they are now, and reports whether that is more than before.
func (l leftOut) more(service string, n int) bool {
	before := l[service]
	l[service] = max(before, n)
	return n > before
}

// storable leaves out the samples that no table takes.
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

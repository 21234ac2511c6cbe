package collectors

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// fakeStore is a database in memory, with the faults that a test asks for; its
// lease is part of it.
type fakeStore struct {
	leasetest.Store

	aggregate func() Readings

	cycles  []spool.Cycle
	health  map[string]probe.Observation
	savedAt []time.Time
	fakeAlerts
}

func newFakeStore() *fakeStore {
	return &fakeStore{health: map[string]probe.Observation{}, fakeAlerts: fakeAlerts{open: map[string]string{}, opened: map[string]time.Time{}, streaks: map[string]streak{}, messages: map[string]message{}}}
}

func (f *fakeStore) Ping(context.Context) error {
	f.Lock()
	defer f.Unlock()
	return f.Begin("ping")
}

func (f *fakeStore) Aggregates(_ context.Context, list []db.Aggregate) Readings {
	f.Lock()
	defer f.Unlock()
	if err := f.Begin("aggregates"); err != nil {
		return failedAll(append(list, db.Aggregate{Name: "all"}), err)
	}
	a := Readings{Answered: true}
	a.read("database", time.Millisecond, sampleOf("postgres", "connections", 7), sampleOf("postgres", "db_size_bytes", 1e6), sampleOf("platform", "devices_online", 3))
	if f.aggregate != nil {
		a = f.aggregate()
	}
	for _, l := range list {
		if a.Answered && a.Of[l.Name].Err == nil {
			a.read(l.Name, time.Millisecond, a.Of[l.Name].Samples...)
		}
	}
	return a
}

func (f *fakeStore) AggregatesBeside(ctx context.Context, list []db.Aggregate) Readings {
	return f.Aggregates(ctx, list)
}

func (f *fakeStore) AppendCycles(_ context.Context, token lease.Token, cycles []spool.Cycle, recheck bool) (int, time.Time, error) {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("append"), f.Fence(token)); err != nil {
		return 0, time.Time{}, err
	}
	stored := 0
	for _, c := range cycles {
		if c.At.After(f.LastCycleAt) {
			f.cycles = append(f.cycles, c)
			stored += len(c.Samples)
			f.LastCycleAt = c.At
		}
	}
	return stored, time.Now(), nil
}

func (f *fakeStore) NewestValues(_ context.Context, series []Series) (map[Series]float64, error) {
	f.Lock()
	defer f.Unlock()
	if err := f.Begin("newest"); err != nil {
		return nil, err
	}
	values := map[Series]float64{}
	for _, c := range f.cycles {
		for _, s := range c.Samples {
			if key := (Series{s.Service, s.Metric}); slices.Contains(series, key) {
				values[key] = s.Value
			}
		}
	}
	return values, nil
}

func (f *fakeStore) SaveHealth(_ context.Context, token lease.Token, at time.Time, observations []probe.Observation, streaks map[string]streak) error {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("health"), f.Fence(token)); err != nil {
		return err
	}
	f.savedAt = append(f.savedAt, at)
	for _, o := range observations {
		f.health[o.Service] = o
	}
	for service, s := range streaks { // as the table has them
		f.streaks[service] = streak{Healthy: s.Healthy, Since: s.Since, Checks: s.Checks, CheckedAt: s.CheckedAt}
	}
	return nil
}

func (f *fakeStore) ExpireSamples(_ context.Context, token lease.Token, cutoff time.Time, _ int) (removed int64, more bool, err error) {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("expire"), f.Fence(token)); err != nil {
		return 0, false, err
	}
	for i, c := range f.cycles {
		if c.At.Before(cutoff) {
			f.cycles = slices.Delete(f.cycles, i, i+1)
			return 1, true, nil // the smallest batch there is
		}
	}
	return 0, false, nil
}

// heldLease is a lease on f that its holder has just taken.
func heldLease(t *testing.T, f *fakeStore) *lease.Lease {
	t.Helper()
	return leasetest.Held(t, f, time.Hour)
}

// answering is a probe that always brings back r.
func answering(r probe.Reading) probe.Probe {
	return func(context.Context) probe.Reading { return r }
}

// watching are probes, by the name of the service that they ask.
func watching(kind config.ProbeKind, probes map[string]probe.Probe) []probe.Target {
	var targets []probe.Target
	for _, name := range slices.Sorted(maps.Keys(probes)) {
		targets = append(targets, probe.Target{Service: config.Service{Name: name, Kind: kind}, Probe: probes[name]})
	}
	return targets
}

// asking are the targets of real probes of one service, which counts.
func asking(client *probe.Client, name, url string) []probe.Target {
	return probe.Targets([]config.Service{{Name: name, Addresses: []string{url}}}, client, nil)
}

// pass lets time pass in a synctest bubble, where nobody waits for it.
func pass(d time.Duration) { time.Sleep(d) }

// collectorOf is a collector that nobody observes.
func collectorOf(targets []probe.Target, store Store, lease *lease.Lease, buffer spool.Buffer, interval time.Duration) *metricsCollector {
	return collectorWith(NoObserver, newSchedule(Aggregates, interval, 0.02), targets, store, lease, buffer, interval)
}

func collectorWith(observer Observer, schedule *schedule, targets []probe.Target, store Store, lease *lease.Lease, buffer spool.Buffer, interval time.Duration) *metricsCollector {
	return newMetricsCollector(targets, store, lease, buffer, interval, schedule, &latencies{}, observer)
}

// alertsAfter are the settings of system alerts, which open and close after so many
// checks in a row; after none they are off.
type alertsAfter struct{ failures, successes int }

// alertAtOnce is what the platform has.
var alertAtOnce = alertsAfter{1, 1}

// monitorOf is a monitor that nobody observes, and whose alerts nobody is told of.
func monitorOf(targets []probe.Target, store Store, lease *lease.Lease, interval time.Duration, after alertsAfter) *healthMonitor {
	return monitorWith(targets, store, lease, interval, after, nil, spool.NewMemory(1))
}

func monitorWith(targets []probe.Target, store Store, lease *lease.Lease, interval time.Duration, after alertsAfter, webhook teller, buffer spool.Buffer) *healthMonitor {
	cfg := config.Config{SystemAlerts: after.failures > 0, AlertAfterFailures: after.failures, AlertAfterSuccesses: after.successes, HealthInterval: interval}
	return &healthMonitor{targets: targets, store: store, lease: lease, latencies: &latencies{}, observer: NoObserver, warned: map[string]time.Time{}, timeout: min(probe.Timeout, interval*6/10),
		alerts: newAlertKeeper(cfg, store, lease, webhook, newQueue(buffer), zerolog.Nop())}
}

// Cycle gathers all there is within a cycle's time, and stores.
func (c *metricsCollector) Cycle(ctx context.Context) error {
	for _, e := range c.counting.schedule.list {
		e.begun = time.Time{}
	}
	return errors.Join(c.gatherer.cycle(ctx), c.storer.cycle(ctx))
}

func waiting(c *metricsCollector) int {
	cycles, _ := c.queue.waiting()
	return cycles
}

func (r *Readings) read(name string, took time.Duration, samples ...spool.Sample) {
	r.set(name, Reading{Samples: samples, Took: took})
}

func (r *Readings) fail(name string, err error) { r.set(name, Reading{Err: err}) }

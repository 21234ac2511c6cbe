package collectors

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// panicking calls panic at the named place, as long as it is to.
type panicking struct {
	place string
	on    atomic.Bool
	met   atomic.Int64
}

func (p *panicking) at(place string) {
	if p.on.Load() && p.place == place {
		p.met.Add(1)
		panic("at " + place)
	}
}

// panickingObserver is one whose every method may panic.
type panickingObserver struct{ *panicking }

func (p panickingObserver) CycleEnded(loop string, _ time.Duration, _ error, _ int) {
	p.at("ended " + loop)
}
func (p panickingObserver) Probed([]probe.Observation)                         { p.at("probed") }
func (p panickingObserver) Aggregated(time.Duration)                           { p.at("aggregated") }
func (p panickingObserver) Counted(string, time.Duration, time.Duration, bool) { p.at("counted") }
func (p panickingObserver) Stored(int)                                         { p.at("stored") }
func (p panickingObserver) Dropped(int)                                        { p.at("dropped") }
func (p panickingObserver) Superseded(int)                                     { p.at("superseded") }

// A panic in any goroutine of the loops costs a cycle, and never the process: when it
// is over, all that a cycle has is stored again.
func TestAPanicAnywhereEndsNoLoop(t *testing.T) {
	for _, place := range []string{
		"ping", "aggregates", "append", "newest", "health", "open", // of the store
		"probed", "aggregated", "counted", "stored", "dropped", // of the observer
		"ended " + MetricsLoop, "ended " + HealthLoop, "ended " + StoreLoop, "ended " + aggregateLoop,
		"turned", "probe", "beside",
	} {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testAPanicAt(t, place) })
		})
	}
}

func testAPanicAt(t *testing.T, place string) {
	p := &panicking{place: place}
	p.on.Store(true)
	store := newFakeStore()
	lease := heldLease(t, store)
	store.SetFail(func(operation string) error { p.at(operation); return nil })
	targets := watching(config.ProbeCounters, map[string]probe.Probe{"ingest": func(context.Context) probe.Reading {
		p.at("probe")
		return probe.Reading{Status: probe.Healthy, HTTPStatus: 200, Latency: time.Millisecond, Counters: map[string]float64{"messages_written": 9}}
	}})
	targets[0].Service.Counters = []config.Counter{{Name: "messages_written"}}
	ping := probe.Targets([]config.Service{{Name: config.DatabaseService, Kind: config.ProbeDatabase}}, probe.NewClient(config.Config{Instances: true}), store.Ping)

	var log logtest.Log
	observer := panickingObserver{p}
	// One that is always read beside the cycles.
	schedule := newSchedule([]db.Aggregate{{Name: "database"}, {Name: "large"}}, 5*time.Second, 1)
	schedule.list[1].slow = true
	metrics := collectorWith(observer, schedule, targets, besideStore{store, p}, lease, spool.NewMemory(2), 5*time.Second)
	health := monitorOf(append(targets, ping...), store, lease, 10*time.Second, alertAtOnce)
	health.observer = observer
	loops := append(metrics.loops(5*time.Second), &Loop{Name: HealthLoop, Interval: 10 * time.Second, Cycle: health.cycle})
	for _, loop := range loops {
		loop.Log = log.Logger().Level(zerolog.ErrorLevel)
		loop.Turned = func() { p.at("turned") }
		loop.Ended = func(took time.Duration, err error, skipped int) {
			observer.CycleEnded(loop.Name, took, err, skipped)
		}
	}
	if place == "dropped" { // only a full buffer drops
		store.SetFail(func(operation string) error {
			if operation == "append" && p.on.Load() {
				return context.DeadlineExceeded
			}
			return nil
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runLoops(ctx, loops)
	}()
	pass(22 * time.Second)
	if p.met.Load() == 0 {
		t.Fatal("nothing panicked there")
	}
	p.on.Store(false)
	store.Lock()
	store.cycles, store.savedAt = nil, nil
	store.Unlock()
	pass(40 * time.Second)
	stop()
	<-ended
	if len(store.savedAt) == 0 || len(store.cycles) < 5 {
		t.Fatalf("%d checks and %d cycles are stored afterwards\n%s", len(store.savedAt), len(store.cycles), log.String())
	}
	wantSamples(t, lessLatency(store.cycles[len(store.cycles)-1].Samples), "ingest messages_written 9", "ingest healthy 1",
		"postgres connections 7", "postgres db_size_bytes 1e+06", "platform devices_online 3", "postgres healthy 1")
	if len(log.Lines(t, "panic")) == 0 {
		t.Errorf("no panic is logged:\n%s", log.String())
	}
}

// besideStore panics beside the cycles.
type besideStore struct {
	*fakeStore
	*panicking
}

func (s besideStore) AggregatesBeside(ctx context.Context, list []db.Aggregate) Readings {
	s.at("beside")
	a := Readings{Answered: true}
	for _, l := range list {
		a.read(l.Name, time.Millisecond)
	}
	return a
}

// lessLatency leaves out what comes once a minute.
func lessLatency(samples []spool.Sample) (left []spool.Sample) {
	for _, s := range samples {
		if s.Metric != config.LatencySample {
			left = append(left, s)
		}
	}
	return left
}

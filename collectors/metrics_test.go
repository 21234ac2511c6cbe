package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// platform lists those services of the platform that readings has, with probes
// that answer from it.
func platform(readings map[string]probe.Reading) []probe.Target {
	var targets []probe.Target
	for _, s := range config.PlatformServices() {
		if reading, ok := readings[s.Name]; ok {
			targets = append(targets, probe.Target{Service: s, Probe: answering(reading)})
		}
	}
	return targets
}

// table writes samples as "service metric value" lines, in order.
func table(samples []spool.Sample) []string {
	lines := make([]string, len(samples))
	for i, s := range samples {
		lines[i] = fmt.Sprintf("%s %s %g", s.Service, s.Metric, s.Value)
	}
	slices.Sort(lines)
	return lines
}

func wantSamples(t *testing.T, got []spool.Sample, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, table(got)); diff != "" {
		t.Error(diff)
	}
}

func TestTheCollectorRunsTheAggregates(t *testing.T) {
	store := newFakeStore()
	collector := collectorOf(nil, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSamples(t, store.cycles[0].Samples,
		"postgres connections 7", "postgres db_size_bytes 1e+06", "postgres healthy 1", "platform devices_online 3")
}

func TestItWritesTheSamplesOfACycleInTheirShape(t *testing.T) {
	store := newFakeStore()
	services := platform(map[string]probe.Reading{
		"ingest":     {Status: probe.Healthy, Counters: map[string]float64{"messages_received": 10, "messages_written": 9, "queue_depth": 1, "unheard_of": 5}},
		"evaluator":  {Status: probe.Healthy, Counters: map[string]float64{"rules_evaluated": 4, "alerts_created": 2}},
		"dispatcher": {Status: probe.Down},
		"delivery":   {Status: probe.Degraded, HTTPStatus: 500, Counters: map[string]float64{"jobs_pending": 3}},
	})
	collector := collectorOf(services, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	cycle := store.cycles[0]
	wantSamples(t, cycle.Samples,
		"ingest messages_received 10", "ingest messages_written 9", "ingest messages_rejected 0", "ingest queue_depth 1", "ingest healthy 1",
		"evaluator rules_evaluated 4", "evaluator alerts_created 2", "evaluator evaluation_errors 0", "evaluator healthy 1",
		"dispatcher healthy 0",
		"delivery healthy 0",
		"postgres connections 7", "postgres db_size_bytes 1e+06", "postgres healthy 1",
		"platform devices_online 3")
	if cycle.At.IsZero() || cycle.At.Nanosecond()%1000 != 0 {
		t.Errorf("time %s is not in whole microseconds", cycle.At)
	}
	for _, s := range cycle.Samples {
		if s.Tags != "{}" {
			t.Errorf("tags of %s: %q", s.Metric, s.Tags)
		}
	}
}

// What the database has of the delivery jobs stands in for the delivery service, which a
// newer platform does not have: where that is monitored, it alone reports them.
func TestDeliveryJobsAreOfOneSource(t *testing.T) {
	for name, test := range map[string]struct {
		targets []probe.Target
		want    []string
	}{
		"not monitored": {nil, []string{"delivery jobs_failed 2", "delivery jobs_pending 4"}},
		"healthy": {platform(map[string]probe.Reading{"delivery": {Status: probe.Healthy, Counters: map[string]float64{"jobs_failed": 7}}}),
			[]string{"delivery jobs_succeeded 0", "delivery jobs_failed 7", "delivery jobs_pending 0", "delivery healthy 1"}},
		"down": {platform(map[string]probe.Reading{"delivery": {Status: probe.Down}}), []string{"delivery healthy 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			store := newFakeStore()
			store.aggregate = func() (a Readings) {
				a.read("delivery totals", time.Millisecond, sampleOf("delivery", "jobs_failed", 2), sampleOf("delivery", "jobs_pending", 4))
				return a
			}
			collector := collectorOf(test.targets, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
			if err := collector.Cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			delivery := slices.DeleteFunc(store.cycles[0].Samples, func(s spool.Sample) bool { return s.Service != "delivery" })
			wantSamples(t, delivery, test.want...)
		})
	}
}

// Totals of which the same pass also yields what comes once a minute are stored every five
// minutes.
func TestSomeTotalsAreStoredSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		store.aggregate = func() (a Readings) {
			a.read("delivery totals", time.Millisecond, sampleOf("delivery", "jobs_failed", 2), sampleOf("platform", "deliveries_failed", 2))
			return a
		}
		collector := collectorOf(nil, store, heldLease(t, store), spool.NewMemory(100), time.Minute)
		got := map[string]int{}
		for range 20 {
			if err := collector.Cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			pass(time.Minute)
		}
		for _, c := range store.cycles {
			for _, s := range c.Samples {
				got[s.Metric]++
			}
		}
		if got["jobs_failed"] != 20 || got["deliveries_failed"] != 4 {
			t.Errorf("stored: %v", got)
		}
	})
}

func TestADatabaseThatDoesNotAnswerIsHealthyZeroOnce(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	store.aggregate = func() Readings { return failedAll(Aggregates[:1], errors.New("away")) }
	collector := collectorOf(nil, store, lease, spool.NewMemory(10), 5*time.Second)
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSamples(t, store.cycles[0].Samples, "postgres healthy 0")
}

func TestAnAggregateThatFailsCostsItsOwnSamples(t *testing.T) {
	synctest.Test(t, testAnAggregateThatFails)
}

func testAnAggregateThatFails(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	failing := true
	store.aggregate = func() Readings {
		a := Readings{Answered: true}
		a.read("database", time.Millisecond, sampleOf("postgres", "connections", 7))
		if failing {
			a.fail("devices", errors.New(`relation "device_state" does not exist`))
		}
		return a
	}
	collector := collectorOf(nil, store, lease, spool.NewMemory(10), 5*time.Second)
	var log logtest.Log
	ctx := log.Logger().WithContext(t.Context())
	for i := range 40 {
		failing = i < 20
		if err := collector.Cycle(ctx); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
	}
	wantSamples(t, store.cycles[0].Samples, "postgres connections 7", "postgres healthy 1")
	bad := log.Lines(t, "aggregate failed, its samples are missing")
	if len(bad) != 2 || bad[0]["aggregate"] != "devices" || !strings.Contains(bad[0]["error"].(string), "device_state") {
		t.Errorf("a line a minute should name the aggregate and the table: %v", bad)
	}
	if n := len(log.Lines(t, "aggregate works again")); n != 1 {
		t.Errorf("%d lines say that it is over, want 1", n)
	}
}

func TestAnExtraServicesCountersAreStoredUnderNamesThatMixNoSeries(t *testing.T) {
	store := newFakeStore()
	counters := map[string]float64{
		"invoices":            3,
		"billing_connections": 6, // the other name of connections is taken
		"healthy":             7, // the collector's own word
	}
	for i, name := range pageSeries {
		counters[name] = float64(10 + i)
	}
	targets := []probe.Target{{Service: config.Service{Name: "billing", Extra: true}, Probe: answering(probe.Reading{Status: probe.Healthy, LeftOut: 1, Counters: counters})}}
	collector := collectorOf(targets, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
	var log logtest.Log
	ctx := log.Logger().WithContext(t.Context())
	for range 3 {
		if err := collector.Cycle(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var billing []spool.Sample
	for _, s := range store.cycles[0].Samples {
		if s.Service == "billing" {
			billing = append(billing, s)
		}
	}
	want := []string{"billing invoices 3", "billing billing_connections 6", "billing healthy 1"}
	for i, name := range pageSeries {
		if name != "connections" {
			want = append(want, fmt.Sprintf("billing billing_%s %d", name, 10+i))
		}
	}
	wantSamples(t, billing, want...)
	left := log.Lines(t, "counters left out: not a finite number, not a proper name, or one too many")
	if len(left) != 1 || left[0]["left_out"] != 3.0 {
		t.Errorf("what is left out should be counted and logged once: %v", left)
	}
}

func TestTheMetricsLoopKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hanging := func(ctx context.Context) probe.Reading {
			<-ctx.Done()
			return probe.Reading{Status: probe.Unknown}
		}
		collector := collectorOf(watching(config.ProbeCounters, map[string]probe.Probe{"ingest": hanging}), store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
		begin := time.Now()
		ticksOf(t, &Loop{Name: MetricsLoop, Interval: 5 * time.Second, Log: zerolog.Nop(), Cycle: collector.Cycle}, time.Minute-time.Second)
		var got []time.Duration
		for _, c := range store.cycles {
			got = append(got, c.At.Sub(begin.Truncate(time.Microsecond)))
		}
		if diff := cmp.Diff(sec(0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55), got); diff != "" {
			t.Errorf("sample times while a service hangs: %s", diff)
		}
	})
}

// The interval is what a loop has for a cycle. One alone has the time that a probe may
// take.
func TestOneCycleTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		slow := func(ctx context.Context) probe.Reading {
			select {
			case <-time.After(probe.Timeout / 2):
				return probe.Reading{Status: probe.Healthy, Counters: map[string]float64{"messages_received": 12}}
			case <-ctx.Done():
				return probe.Reading{Status: probe.Unknown}
			}
		}
		collector := collectorOf(watching(config.ProbeCounters, map[string]probe.Probe{"ingest": slow}), store, heldLease(t, store), spool.NewMemory(10), 200*time.Millisecond)
		collector.gatherer.once(t.Context())
		if got := table(collector.gatherer.last.Samples); !slices.Contains(got, "ingest healthy 1") {
			t.Errorf("samples %q, want those of a service that takes %s", got, probe.Timeout/2)
		}
	})
}

func TestCyclesAreBufferedWhileTheDatabaseIsAwayAndStoredInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := leasetest.Held(t, store, 24*time.Hour)
		down := false
		store.Fail = func(string) error {
			if !down {
				return nil
			}
			return errors.New("connection refused")
		}
		services := []probe.Target{{Service: config.Service{Name: "ingest", Counters: []config.Counter{{Name: "queue_depth"}}}, Probe: answering(probe.Reading{Status: probe.Healthy})}}
		collector := collectorOf(services, store, lease, spool.NewMemory(1000), 5*time.Second)
		begin := time.Now()
		ticksOf(t, &Loop{Name: MetricsLoop, Interval: 5 * time.Second, Log: zerolog.Nop(), Cycle: func(ctx context.Context) error {
			down = time.Since(begin) >= 10*time.Second && time.Since(begin) < 10*time.Minute
			return collector.Cycle(ctx)
		}}, 11*time.Minute-time.Second)
		if n := len(store.cycles); n != 132 {
			t.Fatalf("%d cycles are stored, want all 132", n)
		}
		for i := 1; i < len(store.cycles); i++ {
			if d := store.cycles[i].At.Sub(store.cycles[i-1].At); d != 5*time.Second {
				t.Errorf("cycle %d is %s after the one before", i, d)
			}
		}
		wantSamples(t, store.cycles[50].Samples, "ingest queue_depth 0", "ingest healthy 1", "postgres healthy 0")
	})
}

func TestAFullBufferDropsTheOldestAndSaysSoOnce(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	store.Fail = func(string) error { return errors.New("away") }
	buffer := spool.NewMemory(3)
	collector := collectorOf(nil, store, lease, buffer, 5*time.Second)
	var log logtest.Log
	ctx := log.Logger().WithContext(t.Context())
	var newest []time.Time
	for range 6 {
		if err := collector.Cycle(ctx); err == nil {
			t.Fatal("the cycle should fail")
		}
		newest = append(newest, collector.gatherer.last.At)
	}
	var kept []time.Time
	for _, c := range oldest(buffer) {
		kept = append(kept, c.At)
	}
	if diff := cmp.Diff(newest[3:], kept); diff != "" {
		t.Error(diff)
	}
	if n := len(log.Lines(t, "buffer is full, the oldest cycles are dropped")); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

// oldest are the cycles of a buffer.
func oldest(b spool.Buffer) []spool.Cycle {
	cycles, _ := b.Oldest(1_000_000)
	return cycles
}

// What the table refuses an operator mends: a column that was added, a partition
// that is missing. The cycles wait for that.
func TestWhatTheTableRefusesWaits(t *testing.T) {
	for _, code := range []string{"23502", "23514", "22001", "42703"} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFakeStore()
				lease := leasetest.Held(t, store, time.Hour)
				collector := collectorOf(nil, store, lease, spool.NewMemory(100), 5*time.Second)
				store.Fail = func(operation string) error {
					if operation == "append" {
						return &pgconn.PgError{Code: code}
					}
					return nil
				}
				for range 20 {
					if err := collector.Cycle(t.Context()); err == nil {
						t.Fatal("the cycle should fail")
					}
					pass(5 * time.Second)
				}
				store.Fail = nil
				pass(15 * time.Second)
				if err := collector.Cycle(t.Context()); err != nil || len(store.cycles) != 21 {
					t.Errorf("%d cycles are stored, %v; want 21", len(store.cycles), err)
				}
			})
		})
	}
}

// slowStore gives up statements of more samples than it can store in time.
type slowStore struct {
	*fakeStore
	most    int
	batches []int
}

func (s *slowStore) AppendCycles(ctx context.Context, token lease.Token, cycles []spool.Cycle, recheck bool) (int, time.Time, error) {
	n := countSamples(cycles)
	s.batches = append(s.batches, n)
	if n > s.most {
		return 0, time.Time{}, &pgconn.PgError{Code: "57014", Message: "canceling statement due to statement timeout"}
	}
	return s.fakeStore.AppendCycles(ctx, token, cycles, recheck)
}

func TestABatchThatTakesTooLongShrinksAndGrowsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{fakeStore: newFakeStore(), most: 1 << 20}
		collector := collectorOf(nil, store, leasetest.Held(t, store, 24*time.Hour), spool.NewMemory(5000), 5*time.Second)
		away := func(n int) {
			t.Helper()
			store.Fail = func(string) error { return errors.New("away") }
			for range n {
				_ = collector.Cycle(t.Context())
				pass(5 * time.Second)
			}
			store.Fail = nil
			pass(15 * time.Second)
		}
		away(1000)
		store.most = 100
		store.batches = nil
		if err := collector.Cycle(t.Context()); err != nil || waiting(collector) != 0 {
			t.Fatalf("%d cycles wait, %v: a batch of the same size is sent again for ever", waiting(collector), err)
		}
		if first := store.batches[0]; first < 900 {
			t.Errorf("the first batch has %d samples", first)
		}
		away(4000)
		store.most = 1 << 20
		store.batches = nil
		if err := collector.Cycle(t.Context()); err != nil || slices.Max(store.batches) < 900 {
			t.Errorf("batches %v, %v: they do not grow again", store.batches, err)
		}
	})
}

// One cycle that is too slow for the database waits behind the back-off.
func TestACycleThatAlwaysTakesTooLongBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{fakeStore: newFakeStore()}
		collector := collectorOf(nil, store, leasetest.Held(t, store, 24*time.Hour), spool.NewMemory(5000), 5*time.Second)
		for range 120 { // ten minutes
			if err := collector.Cycle(t.Context()); err == nil {
				t.Fatal("the cycle should fail")
			}
			pass(5 * time.Second)
		}
		if n := len(store.batches); n > 80 {
			t.Errorf("%d attempts in ten minutes", n)
		}
	})
}

// A service that accepts and never answers takes the whole time of gathering.
// The store has its own, and a slow one overlaps the next gathering.
func TestAHungServiceDoesNotStarveASlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &sleepyStore{fakeStore: newFakeStore(), takes: 4500 * time.Millisecond}
		hanging := func(ctx context.Context) probe.Reading {
			<-ctx.Done()
			return probe.Reading{Status: probe.Unknown}
		}
		targets := watching(config.ProbeCounters, map[string]probe.Probe{"ingest": hanging})
		collector := collectorOf(targets, store, leasetest.Held(t, store, 24*time.Hour), spool.NewMemory(100), 5*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute-time.Second)
		defer cancel()
		runLoops(ctx, collector.loops(5*time.Second))
		if n := len(store.cycles); n < 118 {
			t.Errorf("%d of 120 cycles are stored", n)
		}
		if store.most > 1 {
			t.Errorf("%d stores in flight at once", store.most)
		}
	})
}

// sleepyStore takes its time for every store.
type sleepyStore struct {
	*fakeStore
	takes          time.Duration
	inFlight, most int
}

func (s *sleepyStore) AppendCycles(ctx context.Context, token lease.Token, cycles []spool.Cycle, recheck bool) (int, time.Time, error) {
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	pass(s.takes)
	s.inFlight--
	return s.fakeStore.AppendCycles(ctx, token, cycles, recheck)
}

func TestRetentionRemovesBatchAfterBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := heldLease(t, store)
		now := time.Now()
		for _, age := range []time.Duration{9 * 24 * time.Hour, 8 * 24 * time.Hour, time.Hour} {
			store.cycles = append(store.cycles, spool.Cycle{At: now.Add(-age)})
		}
		if err := newRetention(store, lease, 7*24*time.Hour).cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(store.cycles) != 1 || !store.cycles[0].At.Equal(now.Add(-time.Hour)) {
			t.Errorf("left: %v", store.cycles)
		}
	})
}

// A replica before us, or a process before us with its spool, may have stamped
// later than the clock says now.
func TestTheFirstCycleComesAfterWhatStandsAndWhatIsSpooled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		store.LastCycleAt = time.Now().Add(3 * time.Second)
		buffer := spool.NewMemory(10)
		collector := collectorOf(nil, store, heldLease(t, store), buffer, 5*time.Second)
		if err := collector.Cycle(t.Context()); err != nil || len(store.cycles) != 1 {
			t.Errorf("%d cycles are stored, %v: the first was taken for an old one", len(store.cycles), err)
		}
		if _, err := buffer.Push(spool.Cycle{At: store.LastCycleAt.Add(7 * time.Second)}); err != nil {
			t.Fatal(err)
		}
		if err := collector.Cycle(t.Context()); err != nil || len(store.cycles) != 3 {
			t.Errorf("%d cycles are stored, %v: the second is not behind the spooled one", len(store.cycles), err)
		}
	})
}

func TestADatabaseThatRefusesToStoreIsStillMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := heldLease(t, store)
		readOnly := &pgconn.PgError{Code: "25006", Message: "cannot execute INSERT in a read-only transaction"}
		refuse := true
		store.Fail = func(operation string) error {
			if refuse && operation == "append" {
				return readOnly
			}
			return nil
		}
		collector := collectorOf(nil, store, lease, spool.NewMemory(100), time.Second)
		for range 40 {
			if err := collector.Cycle(t.Context()); err == nil {
				t.Fatal("the cycle should fail")
			}
			pass(time.Second)
		}
		refuse = false
		pass(15 * time.Second * 2)
		if err := collector.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, c := range store.cycles {
			wantSamples(t, c.Samples, "postgres connections 7", "postgres db_size_bytes 1e+06", "postgres healthy 1", "platform devices_online 3")
		}
		if len(store.cycles) != 41 {
			t.Errorf("%d cycles, want 41", len(store.cycles))
		}
		attempts := 0
		for _, call := range store.Calls {
			if call == "append" {
				attempts++
			}
		}
		if attempts > 20 {
			t.Errorf("%d attempts to store in 40 s: no back-off", attempts)
		}
	})
}

func TestADatabaseThatIsBackIsStoredToAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := leasetest.Held(t, store, 24*time.Hour)
		store.Fail = func(string) error { return errors.New("connection refused") }
		collector := collectorOf(nil, store, lease, spool.NewMemory(1000), 5*time.Second)
		for range 100 {
			if err := collector.Cycle(t.Context()); err == nil {
				t.Fatal("the cycle should fail")
			}
			pass(5 * time.Second)
		}
		store.Fail = nil
		if err := collector.Cycle(t.Context()); err != nil || len(store.cycles) != 101 {
			t.Errorf("%d cycles are stored in the first cycle that finds the database, %v", len(store.cycles), err)
		}
	})
}

func TestRetentionsBatchIsHalvedAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowExpiry{fakeStore: newFakeStore(), most: 1000}
		retention := newRetention(store, heldLease(t, store.fakeStore), time.Hour)
		if err := retention.cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		store.most = 1 << 20
		for range 4 {
			if err := retention.cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]int{5000, 2500, 1250, 625, 1250, 2500, 5000, 5000}, store.batches); diff != "" {
			t.Error(diff)
		}
	})
}

// slowExpiry expires no batch over a size in time.
type slowExpiry struct {
	*fakeStore
	most    int
	batches []int
}

func (s *slowExpiry) ExpireSamples(_ context.Context, _ lease.Token, _ time.Time, batch int) (removed int64, more bool, err error) {
	s.batches = append(s.batches, batch)
	if batch > s.most {
		return 0, false, &pgconn.PgError{Code: "57014", Message: "canceling statement due to statement timeout"}
	}
	return 10, false, nil
}

// While retention is at work, at least half of the time is the others'.
func TestRetentionYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &busyExpiry{fakeStore: newFakeStore(), takes: 1500 * time.Millisecond, left: 20}
		begin := time.Now()
		if err := newRetention(store, heldLease(t, store.fakeStore), time.Hour).cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		busy := 21 * store.takes
		if took := time.Since(begin); took < 2*busy-store.takes {
			t.Errorf("busy for %s of %s", busy, took)
		}
	})
}

// busyExpiry takes its time for every batch.
type busyExpiry struct {
	*fakeStore
	takes time.Duration
	left  int
}

func (s *busyExpiry) ExpireSamples(context.Context, lease.Token, time.Time, int) (removed int64, more bool, err error) {
	pass(s.takes)
	s.left--
	return 1, s.left >= 0, nil
}

// droppedObserver counts what is superseded.
type droppedObserver struct {
	Observer
	superseded int
}

func (o *droppedObserver) Superseded(samples int) { o.superseded += samples }

// What another replica has stored is no cycle that waits, nor one that is lost.
func TestCyclesOfATimeThatAnotherReplicaHasStoredAreDropped(t *testing.T) {
	for name, buffer := range map[string]func() spool.Buffer{
		"in memory": func() spool.Buffer { return spool.NewMemory(100) },
		"on disk": func() spool.Buffer {
			onDisk, _, err := spool.Open(t.TempDir(), 100)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { onDisk.Close() })
			return onDisk
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := newFakeStore()
			observer := &droppedObserver{Observer: NoObserver}
			first := time.Now().UTC().Truncate(time.Second)
			at := func(n int) time.Time { return first.Add(time.Duration(n) * 5 * time.Second) }
			waits := buffer()
			for n := range 10 {
				if _, err := waits.Push(spool.Cycle{At: at(n), Samples: []spool.Sample{sampleOf("ingest", "healthy", 1), sampleOf("postgres", "healthy", 1)}}); err != nil {
					t.Fatal(err)
				}
			}
			collector := collectorWith(observer, newSchedule(nil, 5*time.Second, 0.02), nil, store, heldLease(t, store), waits, 5*time.Second)
			var log logtest.Log
			for _, test := range []struct {
				through          time.Time
				left, superseded int
			}{{at(-1), 10, 0}, {at(2), 7, 6}, {at(2), 7, 6}, {at(7).Add(time.Second), 2, 16}, {at(100), 0, 20}, {at(101), 0, 20}} {
				collector.supersede(log.Logger(), test.through)
				waiting, oldest := collector.queue.waiting()
				if waiting != test.left || observer.superseded != test.superseded || waiting > 0 && !oldest.After(test.through) {
					t.Errorf("through %s: %d wait, the oldest of %s, %d samples superseded, want %d and %d",
						test.through, waiting, oldest, observer.superseded, test.left, test.superseded)
				}
			}
			if lines := log.Lines(t, "buffered cycles superseded: another replica has stored that time"); len(lines) != 3 {
				t.Errorf("%d lines", len(lines))
			}
		})
	}
}

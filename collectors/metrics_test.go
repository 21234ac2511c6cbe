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
)

// platform lists all four services of the platform that are sampled, with
// probes that answer from readings.
func platform(readings map[string]Reading) []Service {
	client := NewHTTPClient()
	services := Services(config.Services{IngestURL: "x", EvaluatorURL: "x", DispatcherURL: "x", DeliveryURL: "x", KeycloakURL: "x", MQTTAddress: "x:1"},
		client, answering(Reading{Status: Healthy}))
	for i := range services {
		services[i].Probe = answering(readings[services[i].Name])
	}
	return services
}

// table writes samples as "service metric value" lines, in order.
func table(samples []Sample) []string {
	lines := make([]string, len(samples))
	for i, s := range samples {
		lines[i] = fmt.Sprintf("%s %s %g", s.Service, s.Metric, s.Value)
	}
	slices.Sort(lines)
	return lines
}

func wantSamples(t *testing.T, got []Sample, want ...string) {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, table(got)); diff != "" {
		t.Error(diff)
	}
}

func TestTheCollectorRunsTheAggregates(t *testing.T) {
	store := newFakeStore()
	collector := NewMetricsCollector(nil, store, heldLease(t, store), NewMemoryBuffer(10), 5*time.Second)
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSamples(t, store.cycles[0].Samples,
		"postgres connections 7", "postgres db_size_bytes 1e+06", "postgres healthy 1", "platform devices_online 3")
}

func TestItWritesTheSamplesOfACycleInTheirShape(t *testing.T) {
	store := newFakeStore()
	services := platform(map[string]Reading{
		"ingest":     {Status: Healthy, Counters: map[string]float64{"messages_received": 10, "messages_written": 9, "queue_depth": 1, "unheard_of": 5}},
		"evaluator":  {Status: Healthy, Counters: map[string]float64{"rules_evaluated": 4, "alerts_created": 2}},
		"dispatcher": {Status: Down},
		"delivery":   {Status: Degraded, HTTPStatus: 500, Counters: map[string]float64{"jobs_pending": 3}},
	})
	collector := NewMetricsCollector(services, store, heldLease(t, store), NewMemoryBuffer(10), 5*time.Second)
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	cycle := store.cycles[0]
	wantSamples(t, cycle.Samples,
		"ingest messages_received 10", "ingest messages_written 9", "ingest messages_rejected 0", "ingest queue_depth 1", "ingest healthy 1",
		"evaluator rules_evaluated 4", "evaluator alerts_created 2", "evaluator healthy 1",
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

func TestADatabaseThatDoesNotAnswerIsHealthyZeroOnce(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	store.aggregate = func() Aggregates { return Aggregates{Failed: map[string]error{"database": errors.New("away")}} }
	collector := NewMetricsCollector(nil, store, lease, NewMemoryBuffer(10), 5*time.Second)
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSamples(t, store.cycles[0].Samples, "postgres healthy 0")
}

func TestAnAggregateThatFailsCostsItsOwnSamplesAndIsLoggedAtItsChanges(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	failing := true
	store.aggregate = func() Aggregates {
		a := Aggregates{Answered: true, Samples: []Sample{sampleOf("postgres", "connections", 7)}, Failed: map[string]error{}}
		if failing {
			a.Failed["devices"] = errors.New(`relation "device_state" does not exist`)
		}
		return a
	}
	collector := NewMetricsCollector(nil, store, lease, NewMemoryBuffer(10), 5*time.Second)
	var log capturedLog
	ctx := log.logger().WithContext(t.Context())
	for i := range 40 {
		failing = i < 20
		if err := collector.Cycle(ctx); err != nil {
			t.Fatal(err)
		}
	}
	wantSamples(t, store.cycles[0].Samples, "postgres connections 7", "postgres healthy 1")
	bad := log.lines(t, "aggregate failed, its samples are missing")
	if len(bad) != 1 || bad[0]["aggregate"] != "devices" || !strings.Contains(bad[0]["error"].(string), "device_state") {
		t.Errorf("one line should name the aggregate and the table: %v", bad)
	}
	if n := len(log.lines(t, "aggregate works again")); n != 1 {
		t.Errorf("%d lines say that it is over, want 1", n)
	}
}

func TestAFurtherServicesCountersAreStoredUnderNamesThatMixNoSeries(t *testing.T) {
	store := newFakeStore()
	services := []Service{{Name: "billing", Sampled: true, AllCounters: true, Probe: answering(Reading{Status: Healthy, LeftOut: 1, Counters: map[string]float64{
		"invoices":            3,
		"queue_depth":         4, // the dashboard's, of ingest alone
		"connections":         5, // the dashboard's, and …
		"billing_connections": 6, // … its other name is taken
		"healthy":             7, // the collector's own word
	}})}}
	collector := NewMetricsCollector(services, store, heldLease(t, store), NewMemoryBuffer(10), 5*time.Second)
	var log capturedLog
	ctx := log.logger().WithContext(t.Context())
	for range 3 {
		if err := collector.Cycle(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var billing []Sample
	for _, s := range store.cycles[0].Samples {
		if s.Service == "billing" {
			billing = append(billing, s)
		}
	}
	wantSamples(t, billing, "billing invoices 3", "billing billing_queue_depth 4", "billing billing_connections 6", "billing healthy 1")
	left := log.lines(t, "counters left out: not a finite number, not a proper name, or one too many")
	if len(left) != 1 || left[0]["left_out"] != 3.0 {
		t.Errorf("what is left out should be counted and logged once: %v", left)
	}
}

func TestTheMetricsLoopKeepsItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		hanging := Service{Name: "ingest", Sampled: true, Probe: func(ctx context.Context) Reading {
			<-ctx.Done()
			return Reading{Status: Unknown}
		}}
		collector := NewMetricsCollector([]Service{hanging}, store, heldLease(t, store), NewMemoryBuffer(10), 5*time.Second)
		begin := time.Now()
		ticksOf(t, &Loop{Name: metricsLoop, Interval: 5 * time.Second, Log: zerolog.Nop(), Cycle: collector.Cycle}, time.Minute-time.Second)
		var got []time.Duration
		for _, c := range store.cycles {
			got = append(got, c.At.Sub(begin.Truncate(time.Microsecond)))
		}
		if diff := cmp.Diff(sec(0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55), got); diff != "" {
			t.Errorf("sample times while a service hangs: %s", diff)
		}
	})
}

func TestCyclesAreBufferedWhileTheDatabaseIsAwayAndStoredInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := NewLease(store, "test", 24*time.Hour, zerolog.Nop(), nil)
		if _, err := lease.tryAcquire(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		down := false
		attempts := 0
		store.fail = func(operation string) error {
			if !down {
				return nil
			}
			if operation == "append" {
				attempts++
			}
			return errors.New("connection refused")
		}
		services := []Service{{Name: "ingest", Sampled: true, Probe: answering(Reading{Status: Healthy}), Counters: []string{"queue_depth"}}}
		collector := NewMetricsCollector(services, store, lease, NewMemoryBuffer(1000), 5*time.Second)
		begin := time.Now()
		ticksOf(t, &Loop{Name: metricsLoop, Interval: 5 * time.Second, Log: zerolog.Nop(), Cycle: func(ctx context.Context) error {
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
		if attempts < 30 || attempts > 60 {
			t.Errorf("%d attempts in ten minutes: the back-off should leave some 15 s between two", attempts)
		}
	})
}

func TestAFullBufferDropsTheOldestAndSaysSoOnce(t *testing.T) {
	store := newFakeStore()
	lease := heldLease(t, store)
	store.fail = func(string) error { return errors.New("away") }
	buffer := NewMemoryBuffer(3)
	collector := NewMetricsCollector(nil, store, lease, buffer, 5*time.Second)
	var log capturedLog
	ctx := log.logger().WithContext(t.Context())
	var newest []time.Time
	for range 6 {
		if err := collector.Cycle(ctx); err == nil {
			t.Fatal("the cycle should fail")
		}
		newest = append(newest, collector.Last().At)
	}
	var kept []time.Time
	for _, c := range buffer.Oldest(1000) {
		kept = append(kept, c.At)
	}
	if diff := cmp.Diff(newest[3:], kept); diff != "" {
		t.Error(diff)
	}
	if n := len(log.lines(t, "buffer is full, the oldest cycles are dropped")); n != 1 {
		t.Errorf("%d lines, want 1", n)
	}
}

func TestACycleThatTheDatabaseRefusesDoesNotBlockTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &refusingStore{fakeStore: newFakeStore()}
		lease := NewLease(store, "test", time.Hour, zerolog.Nop(), nil)
		if _, err := lease.tryAcquire(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		store.fail = func(string) error { return errors.New("away") }
		collector := NewMetricsCollector(nil, store, lease, NewMemoryBuffer(10), 5*time.Second)
		for range 3 {
			if err := collector.Cycle(t.Context()); err == nil {
				t.Fatal("the cycle should fail")
			}
			store.refused = collector.Last().At // the third
			pass(5 * time.Second)
		}
		store.fail = nil
		if err := collector.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(store.cycles); n != 3 || collector.buffer.Len() != 0 {
			t.Errorf("%d cycles are stored and %d wait, want 3 and 0", n, collector.buffer.Len())
		}
	})
}

// refusingStore refuses the cycle of one instant as a constraint would.
type refusingStore struct {
	*fakeStore
	refused time.Time
}

func (s *refusingStore) AppendCycles(ctx context.Context, token Token, cycles []Cycle) (int, time.Time, error) {
	for _, c := range cycles {
		if s.fail == nil && c.At.Equal(s.refused) {
			return 0, time.Time{}, fmt.Errorf("append samples: %w", &pgconn.PgError{Code: "23514", Message: "violates a check constraint"})
		}
	}
	return s.fakeStore.AppendCycles(ctx, token, cycles)
}

func TestRetentionRemovesBatchAfterBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		lease := heldLease(t, store)
		now := time.Now()
		for _, age := range []time.Duration{9 * 24 * time.Hour, 8 * 24 * time.Hour, time.Hour} {
			store.cycles = append(store.cycles, Cycle{At: now.Add(-age)})
		}
		if err := NewRetention(store, lease, 7*24*time.Hour).Cycle(t.Context()); err != nil {
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
		store.lastCycle = time.Now().Add(3 * time.Second)
		buffer := NewMemoryBuffer(10)
		collector := NewMetricsCollector(nil, store, heldLease(t, store), buffer, 5*time.Second)
		if err := collector.Cycle(t.Context()); err != nil || len(store.cycles) != 1 {
			t.Errorf("%d cycles are stored, %v: the first was taken for an old one", len(store.cycles), err)
		}
		if _, err := buffer.Push(Cycle{At: store.lastCycle.Add(7 * time.Second)}); err != nil {
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
		store.fail = func(operation string) error {
			if refuse && operation == "append" {
				return readOnly
			}
			return nil
		}
		collector := NewMetricsCollector(nil, store, lease, NewMemoryBuffer(100), time.Second)
		for range 40 {
			if err := collector.Cycle(t.Context()); err == nil {
				t.Fatal("the cycle should fail")
			}
			pass(time.Second)
		}
		refuse = false
		pass(longestStoreBackOff * 2)
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
		for _, call := range store.calls {
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
		lease := NewLease(store, "test", 24*time.Hour, zerolog.Nop(), nil)
		if _, err := lease.tryAcquire(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		store.fail = func(string) error { return errors.New("connection refused") }
		collector := NewMetricsCollector(nil, store, lease, NewMemoryBuffer(1000), 5*time.Second)
		for range 100 {
			if err := collector.Cycle(t.Context()); err == nil {
				t.Fatal("the cycle should fail")
			}
			pass(5 * time.Second)
		}
		store.fail = nil
		if err := collector.Cycle(t.Context()); err != nil || len(store.cycles) != 101 {
			t.Errorf("%d cycles are stored in the first cycle that finds the database, %v", len(store.cycles), err)
		}
	})
}

func TestABatchThatTakesTooLongIsHalved(t *testing.T) {
	store := &slowStore{fakeStore: newFakeStore()}
	retention := NewRetention(store, heldLease(t, store.fakeStore), time.Hour)
	if err := retention.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{5000, 2500, 1250, 625}, store.batches); diff != "" {
		t.Error(diff)
	}
}

// slowStore expires no batch over 1,000 in time.
type slowStore struct {
	*fakeStore
	batches []int
}

func (s *slowStore) ExpireSamples(_ context.Context, _ Token, _ time.Time, batch int) (removed int64, more bool, err error) {
	s.batches = append(s.batches, batch)
	if batch > 1000 {
		return 0, false, &pgconn.PgError{Code: "57014", Message: "canceling statement due to statement timeout"}
	}
	return 10, false, nil
}

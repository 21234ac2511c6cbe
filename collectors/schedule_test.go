package collectors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/logtest"
	"ops_worker/internal/spool"
)

// statementTimeout is how the server ends what takes too long.
var statementTimeout = &pgconn.PgError{Code: "57014", Message: "canceling statement due to statement timeout"}

// countingStore is a database whose aggregates take their time. A cycle's limit is
// that of the server on one of them.
type countingStore struct {
	*fakeStore
	takes map[string]time.Duration
	limit time.Duration
	// busy is how long all readings took, and reads how many there were of each.
	busy  time.Duration
	reads map[string]int
	// inFlight are those that are read beside the cycles now.
	inFlight, most int
}

func (s *countingStore) Aggregates(ctx context.Context, list []db.Aggregate) Readings {
	return s.read(ctx, list, s.limit)
}

func (s *countingStore) AggregatesBeside(ctx context.Context, list []db.Aggregate) Readings {
	s.Lock()
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	s.Unlock()
	defer func() {
		s.Lock()
		defer s.Unlock()
		s.inFlight--
	}()
	return s.read(ctx, list, time.Minute)
}

func (s *countingStore) read(ctx context.Context, list []db.Aggregate, limit time.Duration) Readings {
	a := Readings{Answered: true}
	for _, l := range list {
		s.Lock()
		takes := s.takes[l.Name]
		s.Unlock()
		wait, cancel := context.WithTimeout(ctx, min(takes, limit))
		<-wait.Done()
		cancel()
		if ctx.Err() != nil {
			return failedAll(list, ctx.Err())
		}
		s.Lock()
		s.busy += min(takes, limit)
		s.reads[l.Name]++
		nth := float64(s.reads[l.Name])
		s.Unlock()
		if takes > limit {
			a.set(l.Name, Reading{Err: statementTimeout, Took: limit, TimedOut: true})
			continue
		}
		a.read(l.Name, takes, sampleOf("platform", l.Name, nth))
	}
	return a
}

// fourAggregates are aggregates of which the first is cheap.
var fourAggregates = []db.Aggregate{{Name: "cheap"}, {Name: "minutely", Every: time.Minute}, {Name: "large"}, {Name: "larger", Every: time.Minute}}

// count runs a collector of these aggregates for a while.
func count(t *testing.T, takes map[string]time.Duration, budget float64, during time.Duration, change func(s *countingStore)) (*countingStore, *logtest.Log) {
	t.Helper()
	store := &countingStore{fakeStore: newFakeStore(), takes: takes, limit: 2 * time.Second, reads: map[string]int{}}
	collector := collectorWith(NoObserver, newSchedule(fourAggregates, 5*time.Second, budget), nil, store,
		leasetest.Held(t, store.fakeStore, during+time.Hour), spool.NewMemory(10), 5*time.Second)
	var log logtest.Log
	ctx, stop := context.WithTimeout(t.Context(), during)
	defer stop()
	loops := collector.loops(5 * time.Second)
	for _, l := range loops {
		l.Log = log.Logger()
	}
	if change != nil {
		go change(store)
	}
	runLoops(ctx, loops)
	return store, &log
}

// points are the samples of one aggregate by the time of their cycle.
func (s *countingStore) points(name string) (at []time.Time, values []float64) {
	for _, c := range s.cycles {
		for _, sample := range c.Samples {
			if sample.Metric == name {
				at, values = append(at, c.At), append(values, sample.Value)
			}
		}
	}
	return at, values
}

func TestAllAggregatesAreInEveryCycleWhileTheyAreCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, log := count(t, map[string]time.Duration{"cheap": time.Millisecond, "minutely": 10 * time.Millisecond, "large": 50 * time.Millisecond, "larger": 90 * time.Millisecond},
			0.02, time.Hour-time.Second, nil)
		for name, want := range map[string]int{"cheap": 720, "large": 720, "minutely": 60, "larger": 60} {
			if at, _ := store.points(name); len(at) != want {
				t.Errorf("%s: %d points an hour, want %d", name, len(at), want)
			}
		}
		if store.most != 0 || len(log.Lines(t, "aggregate has another pace")) != 0 {
			t.Errorf("%d beside the cycles, %s", store.most, log)
		}
	})
}

func TestWhatTakesLongIsCountedWithinTheBudget(t *testing.T) {
	for name, test := range map[string]struct {
		takes map[string]time.Duration
		every map[string]time.Duration // of its points
	}{
		"a second alone":      {map[string]time.Duration{"cheap": 0, "large": time.Second}, map[string]time.Duration{"cheap": 5 * time.Second, "large": 50 * time.Second, "minutely": time.Minute}},
		"half as often":       {map[string]time.Duration{"large": 200 * time.Millisecond}, map[string]time.Duration{"large": 10 * time.Second}},
		"no multiple":         {map[string]time.Duration{"large": 150 * time.Millisecond}, map[string]time.Duration{"large": 10 * time.Second}},
		"longer than a cycle": {map[string]time.Duration{"large": 20 * time.Second}, map[string]time.Duration{"cheap": 5 * time.Second, "large": 1000 * time.Second}},
		"two that are large": {map[string]time.Duration{"large": 2 * time.Second, "larger": 3 * time.Second},
			map[string]time.Duration{"cheap": 5 * time.Second, "large": 200 * time.Second, "larger": 300 * time.Second}},
		"longer than it may": {map[string]time.Duration{"larger": 2 * time.Minute}, map[string]time.Duration{"cheap": 5 * time.Second, "large": 5 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const during = 12 * time.Hour
				store, _ := count(t, test.takes, 0.02, during, nil)
				busy := store.busy // but for the first reading, and the attempt in a cycle
				for _, takes := range test.takes {
					busy -= min(takes, store.limit) + min(takes, time.Minute)
				}
				if share := busy.Seconds() / during.Seconds(); share > 0.0205 {
					t.Errorf("the database was busy for %.2f %% of the time", 100*share)
				}
				for name, want := range test.every {
					at, values := store.points(name)
					if got := during / time.Duration(len(at)); math.Abs(float64(got-want)) > 0.05*float64(want) {
						t.Errorf("%s: a point every %s, want %s", name, got, want)
					}
					if !slices.IsSorted(values) || len(slices.Compact(values)) != len(at) {
						t.Errorf("%s: a number stands twice", name)
					}
				}
				// Cycles keep their pace, whatever takes long.
				for i, c := range store.cycles[1:] {
					if gap := c.At.Sub(store.cycles[i].At).Round(time.Second); gap != 5*time.Second {
						t.Fatalf("%s between two cycles", gap)
					}
				}
				if store.most > 1 {
					t.Errorf("%d at the same time", store.most)
				}
			})
		})
	}
}

func TestAChangeOfPaceIsLoggedAndOneSlowReadingIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, log := count(t, map[string]time.Duration{"large": 50 * time.Millisecond}, 0.02, 2*time.Hour, func(s *countingStore) {
			set := func(after, takes time.Duration) {
				pass(after)
				s.Lock()
				defer s.Unlock()
				s.takes = map[string]time.Duration{"large": takes}
			}
			set(10*time.Minute+time.Second, 900*time.Millisecond)
			set(5*time.Second, 50*time.Millisecond) // a single reading
			set(10*time.Minute, time.Second)
			set(50*time.Minute, 50*time.Millisecond)
		})
		var lines []string
		for _, line := range log.Lines(t, "aggregate has another pace") {
			lines = append(lines, fmt.Sprint(line["aggregate"], " ", line["took_ms"], " ", line["before"], " ", line["every"]))
		}
		if want := []string{"large 1000 5s 50s", "large 50 50s 5s"}; !slices.Equal(lines, want) {
			t.Errorf("%q, want %q", lines, want)
		}
		if at, _ := store.points("large"); len(at) < 120+120+30+300 {
			t.Errorf("%d points", len(at))
		}
	})
}

func TestWhatFailsIsTriedAgain(t *testing.T) {
	p := newSchedule(fourAggregates, 5*time.Second, 0.02)
	began := time.Now().Truncate(time.Minute)
	// cycle is one at a time; large takes a fifth of a second, and may fail.
	cycle := func(at time.Duration, want string, err error) {
		t.Helper()
		due := p.begin(began.Add(at), began.Add(at))
		a := Readings{Answered: true}
		var names []string
		for _, l := range due {
			names = append(names, l.Name)
			switch {
			case l.Name != "large":
				a.read(l.Name, time.Millisecond)
			case err != nil:
				a.fail(l.Name, err)
			default:
				a.read(l.Name, 200*time.Millisecond)
			}
		}
		p.ended(a, false)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("after %s %q is due, want %q", at, got, want)
		}
	}
	cycle(0, "cheap minutely large larger", nil)
	cycle(5*time.Second, "cheap", nil)
	cycle(10*time.Second, "cheap large", &pgconn.PgError{Code: "42P01"})
	cycle(15*time.Second, "cheap", nil)
	cycle(20*time.Second, "cheap large", errors.New("the connection is gone"))
	cycle(25*time.Second, "cheap large", nil) // it would be due at 30 s
	cycle(30*time.Second, "cheap", nil)
}

// A database that is slow when it comes back has time for what every cycle has.
func TestAfterAnOutageACycleReadsItsOwnFirst(t *testing.T) {
	p := newSchedule(fourAggregates, 5*time.Second, 0.02)
	now := time.Now().Truncate(time.Minute)
	due := func() string {
		var names []string
		for _, a := range p.begin(now, now) {
			names = append(names, a.Name)
		}
		return strings.Join(names, " ")
	}
	if got := due(); got != "cheap minutely large larger" {
		t.Fatal(got)
	}
	away := failedAll(fourAggregates, errors.New("no answer"))
	p.ended(away, false)
	now = now.Add(5 * time.Second)
	if got := due(); got != "cheap large" {
		t.Errorf("due is %q", got)
	}
	for range 2 {
		next, ok := p.beginBeside(now, now)
		if !ok {
			t.Fatal("nothing is due beside the cycles")
		}
		a := Readings{Answered: true}
		a.read(next.Name, time.Millisecond)
		p.ended(a, true)
	}
	now = now.Add(time.Minute)
	if got := due(); got != "cheap minutely large larger" {
		t.Errorf("due is %q", got)
	}
}

func TestASlowAggregateOfAnEarlierTermIsNoSampleOfThisOne(t *testing.T) {
	store := newFakeStore()
	collector := collectorOf(nil, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
	collector.counting.landed.read("large", time.Second, sampleOf("platform", "large", 1))
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSamples(t, store.cycles[0].Samples, "platform devices_online 3", "postgres connections 7", "postgres db_size_bytes 1e+06", "postgres healthy 1")
}

func TestAStopEndsWhatIsCountedBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		store, log := count(t, map[string]time.Duration{"large": 50 * time.Second}, 0.02, 30*time.Second, nil)
		if took := time.Since(begin); took > 31*time.Second || store.most != 1 {
			t.Errorf("the loops ended after %s, %d were counted beside", took, store.most)
		}
		if text := log.String(); strings.Contains(text, "failed") {
			t.Error(text)
		}
	})
}

// One that was slow, and is not any more, may be counted beside the cycles and in the
// next one.
func TestWhatIsCountedTwiceIsStoredOnce(t *testing.T) {
	store := newFakeStore()
	collector := collectorOf(nil, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
	collector.gatherer.counters.begin(collector.gatherer.lease.Token())
	collector.counting.landed.read("database", time.Millisecond, sampleOf("postgres", "connections", 8))
	if err := collector.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSamples(t, store.cycles[0].Samples, "platform devices_online 3", "postgres connections 7", "postgres db_size_bytes 1e+06", "postgres healthy 1")
}

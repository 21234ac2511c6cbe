package lease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"ops_worker/internal/lease"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/logtest"
)

// term is one stretch of leading, as the test's clock saw it.
type term struct {
	holder     string
	begin, end time.Duration
}

// replicas runs leases against one store and notes their terms.
type replicas struct {
	t     *testing.T
	store *leasetest.Store
	begin time.Time
	mu    sync.Mutex
	terms []term
	stops map[string]context.CancelFunc
	wg    sync.WaitGroup
}

func newReplicas(t *testing.T) *replicas {
	return &replicas{t: t, store: &leasetest.Store{}, begin: time.Now(), stops: map[string]context.CancelFunc{}}
}

func (r *replicas) start(name string) *lease.Lease {
	ctx, stop := context.WithCancel(r.t.Context())
	r.stops[name] = stop
	l := lease.New(r.store, name, 15*time.Second, zerolog.Nop(), lease.Hooks{})
	r.wg.Go(func() {
		l.Run(ctx, func(ctx context.Context) {
			begin := time.Since(r.begin)
			<-ctx.Done()
			r.mu.Lock()
			defer r.mu.Unlock()
			r.terms = append(r.terms, term{name, begin, time.Since(r.begin)})
		})
	})
	return l
}

func (r *replicas) stopAll() []term {
	for _, stop := range r.stops {
		stop()
	}
	r.wg.Wait()
	return r.terms
}

func TestOneOfTwoReplicasLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		r.start("a")
		synctest.Wait()
		r.start("b")
		pass(10 * time.Minute)
		terms := r.stopAll()
		if len(terms) == 0 || terms[0].holder != "a" || terms[0].begin != 0 || terms[0].end < 10*time.Minute {
			t.Errorf("terms: %v", terms)
		}
	})
}

func TestAStandbyTakesOverWhenTheLeaderStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		r.start("a")
		synctest.Wait()
		r.start("b")
		pass(time.Minute)
		r.stops["a"]()
		pass(time.Minute)
		terms := r.stopAll()
		if len(terms) != 2 || terms[1].holder != "b" || terms[1].begin-terms[0].end > 2*time.Second {
			t.Errorf("terms: %v, want b within 2 s after a", terms)
		}
	})
}

func TestAStandbyTakesOverWhenTheLeaseExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		// A leader that is gone without a word.
		if _, err := r.store.Acquire(t.Context(), "dead", 15*time.Second); err != nil {
			t.Fatal(err)
		}
		r.start("b")
		pass(time.Minute)
		terms := r.stopAll()
		if len(terms) != 1 || terms[0].begin < 15*time.Second || terms[0].begin > 17*time.Second {
			t.Errorf("terms: %v, want one from 15 s on", terms)
		}
	})
}

func TestALeaderGoesOnWhileTheDatabaseIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		l := r.start("a")
		pass(time.Minute)
		r.store.SetFail(func(string) error { return errors.New("away") })
		pass(10 * time.Minute) // the lease runs out, but nobody can take it
		r.store.SetFail(nil)
		pass(time.Minute)
		if epoch := l.Token().Epoch; epoch != 2 {
			t.Errorf("epoch %d, want 2: a lease that ran out is taken anew", epoch)
		}
		if terms := r.stopAll(); len(terms) != 1 || terms[0].end != 12*time.Minute {
			t.Errorf("terms: %v, want one that lasts", terms)
		}
	})
}

// Each connection of a pool may be half open. A leader goes through them before its
// lease runs out.
func TestALeaderRepeatsARenewalThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		l := r.start("a")
		synctest.Wait()
		r.start("b")
		failures := 0
		r.store.SetFail(func(operation string) error {
			if operation == "renew" && failures < 4 {
				failures++
				return errors.New("half open")
			}
			return nil
		})
		pass(time.Minute)
		if epoch := l.Token().Epoch; failures != 4 || epoch != 1 {
			t.Errorf("%d failures, epoch %d, want the first one after 4", failures, epoch)
		}
		if terms := r.stopAll(); len(terms) == 0 || terms[0].holder != "a" || terms[0].end != time.Minute {
			t.Errorf("terms: %v, want one of a that lasts", terms)
		}
	})
}

func TestAfterAnOutageTheLeaderComesBackForItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		r.start("a")
		synctest.Wait()
		for _, standby := range []string{"b", "c", "d"} {
			r.start(standby)
		}
		for range 20 {
			pass(time.Minute)
			r.store.SetFail(func(string) error { return errors.New("away") })
			pass(2 * time.Minute) // far longer than the lease
			r.store.SetFail(nil)
		}
		pass(time.Minute)
		terms := r.stopAll()
		if terms[0].holder != "a" || terms[0].end < time.Hour {
			t.Errorf("terms: %v, want a's to outlast every outage", terms)
		}
	})
}

func TestWhileWritesAreRefusedAStandbyDefersToTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		r.start("a")
		synctest.Wait()
		r.start("b")
		for range 20 {
			pass(time.Minute)
			r.store.SetFail(func(operation string) error {
				if operation == "look" {
					return nil // reading goes on
				}
				return errors.New("read-only")
			})
			pass(2*time.Minute + 700*time.Millisecond)
			r.store.SetFail(nil)
		}
		pass(time.Minute)
		if terms := r.stopAll(); terms[0].holder != "a" || terms[0].end < time.Hour {
			t.Errorf("terms: %v, want a's to outlast every outage", terms)
		}
	})
}

func TestALeaderThatDiesInAnOutageIsReplacedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		if _, err := r.store.Acquire(t.Context(), "dead", 15*time.Second); err != nil {
			t.Fatal(err)
		}
		r.start("b")
		pass(time.Second)
		r.store.SetFail(func(string) error { return errors.New("away") })
		pass(time.Minute)
		r.store.SetFail(nil)
		pass(time.Minute)
		terms := r.stopAll()
		// The outage ends after 61 s. It is noticed within one poll, and the lease
		// taken within another.
		const earliest, latest = 76 * time.Second, 78 * time.Second
		if len(terms) != 1 || terms[0].begin < earliest || terms[0].begin > latest {
			t.Errorf("terms: %v, want one a lease's length after the outage", terms)
		}
	})
}

// A standby tells of each outage when it is over; not a leader, nor a process that has
// not read the lease before.
func TestAStandbyTellsOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &leasetest.Store{Fail: func(string) error { return errors.New("away") }}
		store.Usurp("other", 1)
		var told []string
		began := time.Now()
		l := lease.New(store, "me", 15*time.Second, zerolog.Nop(), lease.Hooks{Answered: func(away, back time.Time) {
			told = append(told, fmt.Sprint(away.Sub(began).Round(5*time.Second), back.Sub(began).Round(5*time.Second)))
		}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.Run(ctx, func(ctx context.Context) { <-ctx.Done() })
		}()
		outage := func(fail func(string) error) {
			pass(time.Minute)
			store.SetFail(fail)
		}
		outage(nil) // after the first minute
		outage(func(string) error { return errors.New("away") })
		outage(nil)
		outage(func(operation string) error { // which answers, and refuses writes
			if operation == "look" {
				return nil
			}
			return errors.New("read-only")
		})
		store.Lock()
		store.Holder = ""
		store.Unlock()
		outage(nil) // it leads from here on
		outage(func(string) error { return errors.New("away") })
		outage(nil)
		pass(time.Minute)
		stop()
		<-ended
		if diff := cmp.Diff([]string{"2m0s 3m0s"}, told); diff != "" {
			t.Error(diff)
		}
	})
}

// One lost connection now and then is no outage: whoever let the lease run out
// meanwhile is dead.
func TestSinglePollsThatFailDoNotKeepAStandbyFromTakingOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		if _, err := r.store.Acquire(t.Context(), "dead", 15*time.Second); err != nil {
			t.Fatal(err)
		}
		polls := 0
		r.store.Fail = func(operation string) error {
			if operation == "look" {
				if polls++; polls%5 == 0 {
					return errors.New("connection lost")
				}
			}
			return nil
		}
		r.start("b")
		pass(time.Minute)
		if terms := r.stopAll(); len(terms) != 1 || terms[0].begin > 18*time.Second {
			t.Errorf("terms: %v, want one from 15 s on", terms)
		}
	})
}

func TestALeaseTakenInTheMomentOfAStopIsHandedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &leasetest.Store{}
		ctx, stop := context.WithCancel(t.Context())
		store.Fail = func(operation string) error {
			if operation == "acquire" {
				stop()
			}
			return nil
		}
		lease.New(store, "me", 15*time.Second, zerolog.Nop(), lease.Hooks{}).Run(ctx, func(context.Context) { t.Error("it leads") })
		if store.Holder != "" {
			t.Errorf("the lease is still %s's", store.Holder)
		}
	})
}

func TestALeaderThatWasOvertakenStepsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		r.start("a")
		pass(time.Minute + time.Second)
		r.store.Usurp("other", 9)
		pass(time.Minute)
		terms := r.stopAll()
		if len(terms) != 1 || terms[0].end > time.Minute+6*time.Second {
			t.Errorf("terms: %v, want one that ends at the next renewal", terms)
		}
		if r.store.Holder != "other" {
			t.Errorf("the lease is %s's", r.store.Holder)
		}
	})
}

func TestARefusedStoreMakesTheLeaderLookAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplicas(t)
		l := r.start("a")
		pass(time.Second)
		r.store.Usurp("other", 9)
		l.RenewNow()
		synctest.Wait()
		if terms := r.stopAll(); len(terms) != 1 || terms[0].end != time.Second {
			t.Errorf("terms: %v", terms)
		}
	})
}

func TestARoleIsLoggedWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		store := &leasetest.Store{}
		if _, err := store.Acquire(t.Context(), "other", 10*time.Minute); err != nil {
			t.Fatal(err)
		}
		l := lease.New(store, "me", 15*time.Second, log.Logger(), lease.Hooks{})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		l.Run(ctx, func(ctx context.Context) { <-ctx.Done() })
		if lines := log.Lines(t, "another replica collects"); len(lines) != 1 || lines[0]["leader"] != "other" {
			t.Errorf("standby lines: %v", lines)
		}
		if lines := log.Lines(t, "this replica collects"); len(lines) != 1 {
			t.Errorf("leader lines: %v", lines)
		}
		if lines := log.Lines(t, "lease handed back"); len(lines) != 1 {
			t.Errorf("hand-over lines: %v", lines)
		}
	})
}

// pass lets time pass in a synctest bubble, where nobody waits for it.
func pass(d time.Duration) { time.Sleep(d) }

// As long as another replica leads, its newest stored cycle is told: not in a lease's
// own term, and not what a clock that was wrong has stamped.
func TestWhatAnotherReplicaHasStoredIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Time
		store := &leasetest.Store{}
		l := lease.New(store, "me", 15*time.Second, zerolog.Nop(), lease.Hooks{Superseded: func(at time.Time) { told = append(told, at) }})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.Run(ctx, func(ctx context.Context) { <-ctx.Done() })
		}()
		pass(time.Minute)
		synctest.Wait()
		if len(told) > 0 {
			t.Errorf("in its own term: %v", told)
		}
		store.Usurp("other", 9)
		stored := time.Now()
		store.Lock()
		store.LastCycleAt = stored
		store.Unlock()
		pass(time.Minute)
		synctest.Wait()
		if len(told) < 30 || !told[0].Equal(stored) {
			t.Errorf("%d times, %v", len(told), told)
		}
		store.Lock()
		store.LastCycleAt = stored.Add(400 * 24 * time.Hour)
		store.Unlock()
		pass(time.Minute)
		synctest.Wait()
		if newest := told[len(told)-1]; !newest.Equal(stored) {
			t.Errorf("of a clock that was wrong: %s", newest)
		}
		stop()
		<-ended
	})
}

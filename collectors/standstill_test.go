package collectors

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// stuck is something that waits while there is a gate, and heeds no context.
type stuck struct{ gate atomic.Pointer[chan struct{}] }

func (s *stuck) wait() {
	if gate := s.gate.Load(); gate != nil {
		<-*gate
	}
}

// stuckStore waits where health rows are saved.
type stuckStore struct {
	*fakeStore
	*stuck
}

func (s stuckStore) SaveHealth(ctx context.Context, token lease.Token, at time.Time, observations []probe.Observation, streaks map[string]streak) error {
	s.wait()
	return s.fakeStore.SaveHealth(ctx, token, at, observations, streaks)
}

// stuckBuffer waits where a cycle goes to disk.
type stuckBuffer struct {
	spool.Buffer
	*stuck
}

func (b stuckBuffer) Push(c spool.Cycle) ([]spool.Cycle, error) {
	b.wait()
	return b.Buffer.Push(c)
}

// inMemory is a worker whose store and buffer are a test's own.
func inMemory(store Store, leases lease.Store, buffer spool.Buffer, probed probe.Probe, log *logtest.Log) *Worker {
	cfg := config.Config{MetricsInterval: 5 * time.Second, HealthInterval: time.Minute, LeaseTTL: 15 * time.Second}
	w := &Worker{cfg: cfg, log: log.Logger(), heart: NoHeart}
	targets := watching(config.ProbeCounters, map[string]probe.Probe{"ingest": probed})
	w.jobs = newJobs(cfg, targets, store, leases, buffer, NoHeart, NoObserver, w.log)
	return w
}

// A leader of which one loop stands still gives up its lease, whatever the loop waits
// for, and is back when the loop is.
func TestALeaderWhoseLoopStandsStillGivesUpItsLease(t *testing.T) {
	// An interval until the loop is stuck, its deadline, and max(three intervals, 15 s).
	const metrics, health = 5*time.Second + 4500*time.Millisecond + 15*time.Second, time.Minute + 54*time.Second + 3*time.Minute
	for name, test := range map[string]struct {
		what   string
		within time.Duration
	}{
		"a probe":           {"probe", metrics},
		"a disk":            {"buffer", metrics},
		"a store of health": {"store", health},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testAStandstill(t, test.what, test.within) })
		})
	}
}

func testAStandstill(t *testing.T, what string, within time.Duration) {
	none, at := &stuck{}, &stuck{}
	of := func(name string) *stuck {
		if name == what {
			return at
		}
		return none
	}
	fake := newFakeStore()
	var log logtest.Log
	w := inMemory(stuckStore{fake, of("store")}, fake, stuckBuffer{spool.NewMemory(100), of("buffer")},
		func(context.Context) probe.Reading {
			of("probe").wait()
			return probe.Reading{Status: probe.Healthy}
		}, &log)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Lease.Run(ctx, w.collect)
	}()
	pass(3 * time.Minute)
	if !w.Lease.Status().Leading {
		t.Fatal("it does not lead while all is well")
	}

	gate := make(chan struct{})
	at.gate.Store(&gate)
	began := time.Now()
	for w.Lease.Status().Leading && time.Since(began) < time.Hour {
		pass(100 * time.Millisecond)
	}
	if took := time.Since(began); took > within+time.Second {
		t.Errorf("it leads for %s, want %s at most", took, within)
	}
	pass(10 * time.Minute)
	w.metrics.storer.newestStore() // those that ask do not wait for it
	w.Waiting()
	fake.Lock()
	holder, epoch := fake.Holder, fake.Epoch
	fake.Unlock()
	if holder != "" {
		t.Errorf("the lease is %q's while the loop stands still", holder)
	}
	if lines := log.Lines(t, "a loop stands still, this replica does not collect until it returns"); len(lines) != 1 {
		t.Errorf("lines: %v", lines)
	}

	at.gate.Store(nil)
	close(gate)
	pass(time.Minute)
	if fake.Lock(); fake.Holder != w.Lease.Holder() || fake.Epoch != epoch+1 {
		t.Errorf("when it is back the lease is %q's, epoch %d after %d", fake.Holder, fake.Epoch, epoch)
	}
	fake.Unlock()
	if newest := w.metrics.storer.newestStore(); time.Since(newest) > 6*time.Second {
		t.Errorf("its newest store is %s old", time.Since(newest))
	}
	stop()
	<-ended
}

// Stores that fail, and a database that is away, are no standstill.
func TestAnOutageIsNoStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeStore()
		var log logtest.Log
		w := inMemory(fake, fake, spool.NewMemory(10_000), answering(probe.Reading{Status: probe.Healthy}), &log)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.Lease.Run(ctx, w.collect)
		}()
		pass(time.Minute)
		fake.SetFail(func(string) error { return context.DeadlineExceeded })
		pass(time.Hour)
		if !w.Lease.Status().Leading {
			t.Error("it does not lead in an outage")
		}
		stop()
		<-ended
	})
}

// A stop ends in time also while a loop stands still, with the lease handed back.
func TestAStopEndsWhileALoopStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, at := newFakeStore(), &stuck{}
		gate := make(chan struct{})
		at.gate.Store(&gate)
		var log logtest.Log
		w := inMemory(stuckStore{fake, at}, fake, spool.NewMemory(10), answering(probe.Reading{Status: probe.Healthy}), &log)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.Lease.Run(ctx, w.collect)
		}()
		pass(10 * time.Second)
		stop()
		begin := time.Now()
		<-ended
		if took := time.Since(begin); took > 4500*time.Millisecond {
			t.Errorf("it took %s to stop", took)
		}
		if fake.Holder != "" {
			t.Errorf("the lease is still %s's", fake.Holder)
		}
		close(gate) // what was left behind
	})
}

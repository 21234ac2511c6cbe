package notify

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ops_worker/internal/logtest"
)

func beating(t *testing.T, test func(*testing.T, *Heartbeat, *fakeReceiver, *logtest.Log)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake, log := &fakeReceiver{answer: working}, &logtest.Log{}
		h := newHeartbeat("https://example.org/s3cret", fake, log.Logger())
		var running sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		running.Go(func() { h.Run(ctx) })
		test(t, h, fake, log)
		stop()
		running.Wait()
	})
}

// stores calls Stored every interval, for so long.
func stores(h *Heartbeat, interval, long time.Duration) {
	for began := time.Now(); time.Since(began) < long; after(interval) {
		h.Stored()
	}
}

func TestAHeartbeatAMinute(t *testing.T) {
	for _, interval := range []time.Duration{5 * time.Second, 59 * time.Second, time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			beating(t, func(t *testing.T, h *Heartbeat, fake *fakeReceiver, log *logtest.Log) {
				after(10 * time.Minute)
				equal(t, "sent before a store", len(fake.take()), 0)
				h.Stored()
				synctest.Wait()
				equal(t, "sent at the first store", len(fake.take()), 1)
				stores(h, interval, 10*time.Minute)
				came := fake.take()
				if n := len(came); n < 8 || n > 10 {
					t.Errorf("%d were sent in ten minutes", n)
				}
				for i := range came[1:] {
					if apart := came[i+1].at.Sub(came[i].at); apart < time.Minute || apart >= time.Minute+interval {
						t.Errorf("two are %s apart", apart)
					}
				}
				equal(t, "log", log.String(), "")
			})
		})
	}
}

func TestNoHeartbeatWithoutAStore(t *testing.T) {
	beating(t, func(t *testing.T, h *Heartbeat, fake *fakeReceiver, _ *logtest.Log) {
		stores(h, 5*time.Second, 3*time.Minute)
		last := time.Now()
		after(time.Hour)
		for _, r := range fake.take() {
			if late := r.at.Sub(last); late >= time.Minute {
				t.Errorf("one was sent %s after the last store", late)
			}
		}
		h.Stored()
		synctest.Wait()
		equal(t, "sent at the next store", len(fake.take()), 1)
	})
}

func TestAHeartbeatIsRetried(t *testing.T) {
	beating(t, func(t *testing.T, h *Heartbeat, fake *fakeReceiver, log *logtest.Log) {
		fake.answers(failing)
		h.Stored()
		after(50 * time.Second)
		if n := len(fake.take()); n < 4 {
			t.Errorf("%d attempts", n)
		}
		after(time.Hour)
		equal(t, "retries of a store that is old", len(fake.take()) <= 1, true)
		stores(h, 5*time.Second, 10*time.Minute)
		came := fake.take()
		for i := range came[1:] {
			if apart := came[i+1].at.Sub(came[i].at); apart < time.Second || apart > time.Minute {
				t.Errorf("two attempts are %s apart", apart)
			}
		}
		fake.answers(working)
		stores(h, 5*time.Second, 5*time.Minute)
		if n := len(fake.take()); n < 4 || n > 5 {
			t.Errorf("%d were sent in the five minutes since it works", n)
		}
		equal(t, "lines that say that it works", len(log.Lines(t, "heartbeat is sent again")), 1)
	})
}

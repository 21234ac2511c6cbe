package backoff

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNoWaitIsLongerThanItMay(t *testing.T) {
	t.Parallel()
	for _, longest := range []time.Duration{time.Millisecond, time.Second, 15 * time.Second} {
		b := New(longest)
		grown := time.Duration(0)
		for range 1000 {
			d := b.NextBackOff()
			if d <= 0 || d > longest {
				t.Fatalf("a wait of %s, want at most %s", d, longest)
			}
			grown = max(grown, d)
		}
		if grown < longest*9/10 {
			t.Errorf("the longest wait is %s of %s", grown, longest)
		}
		for range 1000 {
			if d := Jittered(longest); d < longest*2/3 || d > longest {
				t.Fatalf("jittered: %s of %s", d, longest)
			}
		}
	}
}

func TestWhatHangsIsNotWaitedForWithoutEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangs, began := make(chan struct{}), time.Now()
		AtMost(time.Second, func() { <-hangs })
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
		close(hangs)
		AtMost(time.Hour, func() {})
		if took := time.Since(began); took != time.Second {
			t.Errorf("what ends at once took %s more", took-time.Second)
		}
	})
}

package collectors

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStampsAreMicrosecondsAndStrictlyLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sampleClock{current: time.Now}
		before := stampOf(&c)
		for range 3 {
			if now := stampOf(&c); now.Sub(before) != time.Microsecond {
				t.Errorf("two cycles of one instant are %s apart", now.Sub(before))
			} else {
				before = now
			}
		}
		pass(5*time.Second + 123*time.Nanosecond)
		if now := stampOf(&c); now.Nanosecond()%1000 != 0 || now.Sub(before) < 4*time.Second {
			t.Errorf("stamp %s", now)
		}
	})
}

func TestStampsOutliveAClockThatJumps(t *testing.T) {
	for name, jump := range map[string]time.Duration{"back": -time.Hour, "forth": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shift := time.Duration(0)
				c := sampleClock{current: func() time.Time { return time.Now().Add(shift) }}
				before := stampOf(&c)
				step := func() time.Duration {
					pass(5 * time.Second)
					now := stampOf(&c)
					d := now.Sub(before)
					before = now
					return d
				}
				if d := step(); d != 5*time.Second {
					t.Fatalf("%s between two cycles", d)
				}
				shift = jump
				first := step()
				if jump > 0 && first != 5*time.Second+jump {
					t.Errorf("after a jump forth the samples follow: %s", first)
				}
				for range 100 {
					if d := step(); d < 4500*time.Millisecond || d > 5*time.Second {
						t.Fatalf("%s between two cycles after the jump", d)
					}
				}
				for range 10 * 720 { // ten hours
					step()
				}
				if off := before.Sub(c.current()); off < -time.Millisecond || off > time.Millisecond {
					t.Errorf("the samples are still %s off", off)
				}
			})
		})
	}
}

func TestStampsComeAfterTheNewestStoredCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sampleClock{current: time.Now}
		stored := time.Now().Add(3 * time.Second) // by a replica before us
		c.notBefore(stored)
		if now := stampOf(&c); !now.After(stored) {
			t.Errorf("%s is not after %s", now, stored)
		}
	})
}

// stampOf is the next stamp of a clock that was not far ahead.
func stampOf(c *sampleClock) time.Time {
	at, _ := c.stamp()
	return at
}

// Six seconds of a clock far ahead are over after six seconds, and not after the
// years that the stamps would need to wait for it.
func TestAClockFarAheadDoesNotStick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shift := time.Duration(0)
		c := sampleClock{current: func() time.Time { return time.Now().Add(shift) }}
		for range 3 {
			stampOf(&c)
			pass(5 * time.Second)
		}
		shift = 400 * 24 * time.Hour
		future := stampOf(&c)
		pass(5 * time.Second)
		shift = 0
		at, wasAhead := c.stamp()
		if !at.Equal(time.Now().UTC()) || wasAhead < 399*24*time.Hour {
			t.Errorf("stamp %s, was ahead %s", at, wasAhead)
		}
		c.notBefore(future) // as the lease's row, or the buffer, still has it
		pass(5 * time.Second)
		if at, wasAhead := c.stamp(); !at.Equal(time.Now().UTC()) || wasAhead != 0 {
			t.Errorf("stamp %s, was ahead %s", at, wasAhead)
		}
		// Up to an hour is no such fault: stamps go on in order.
		c.notBefore(time.Now().Add(59 * time.Minute))
		if at, wasAhead := c.stamp(); !at.After(time.Now().Add(59*time.Minute)) || wasAhead != 0 {
			t.Errorf("stamp %s, was ahead %s", at, wasAhead)
		}
	})
}

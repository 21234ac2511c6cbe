package collectors

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDatabaseClockMovesOnlyOutsideOfWhatAReadingSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c databaseClock
		ahead := 42 * time.Minute // of the local clock
		read := func(there, back time.Duration) {
			sent := time.Now()
			pass(there)
			remote := time.Now().Add(ahead)
			pass(back)
			c.observe(remote, sent, time.Now())
		}
		offset := func() time.Duration { return time.Until(c.now()) }

		read(time.Millisecond, time.Millisecond)
		if offset() != ahead {
			t.Fatalf("offset %s, want %s", offset(), ahead)
		}
		for range 100 {
			pass(5 * time.Second)
			read(0, 900*time.Millisecond) // lopsided and slow: says little
			read(900*time.Millisecond, 0)
		}
		if offset() != ahead {
			t.Errorf("offset %s after slow readings, want %s still", offset(), ahead)
		}
		ahead += time.Second
		read(10*time.Millisecond, 10*time.Millisecond)
		if off := offset() - ahead; off < -10*time.Millisecond || off > 10*time.Millisecond {
			t.Errorf("the clock is off by %s after the database's was set", off)
		}
	})
}

func TestStampsAreMicrosecondsAndStrictlyLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sampleClock{current: time.Now}
		before := c.stamp()
		for range 3 {
			if now := c.stamp(); now.Sub(before) != time.Microsecond {
				t.Errorf("two cycles of one instant are %s apart", now.Sub(before))
			} else {
				before = now
			}
		}
		pass(5*time.Second + 123*time.Nanosecond)
		if now := c.stamp(); now.Nanosecond()%1000 != 0 || now.Sub(before) < 4*time.Second {
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
				before := c.stamp()
				step := func() time.Duration {
					pass(5 * time.Second)
					now := c.stamp()
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
		c.raise(stored)
		if now := c.stamp(); !now.After(stored) {
			t.Errorf("%s is not after %s", now, stored)
		}
	})
}

package lease

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
			sleep(there)
			remote := time.Now().Add(ahead)
			sleep(back)
			c.observe(remote, sent, time.Now())
		}
		offset := func() time.Duration { return time.Until(c.now()) }

		read(time.Millisecond, time.Millisecond)
		if offset() != ahead {
			t.Fatalf("offset %s, want %s", offset(), ahead)
		}
		for range 100 {
			sleep(5 * time.Second)
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

// sleep lets time pass in a synctest bubble, where nobody waits for it.
func sleep(d time.Duration) { <-time.After(d) }

package collectors

import (
	"sync"
	"time"
)

// databaseClock tells the database's time between two readings of it. Every
// replica stamps its samples by this one clock, and the worker's own wall clock,
// which may jump, counts for nothing: between readings time is monotonic.
type databaseClock struct {
	mu sync.Mutex
	// At the local instant local, the database's clock read remote.
	local, remote time.Time
}

// observe takes a reading that was asked for at sent and came back at received.
// The database read its clock somewhere in between, so the reading says nothing
// finer than that: it moves the clock only where the clock is outside of these
// bounds, and no further than to the nearer one. Samples keep their distances
// that way, however much the round trips differ.
func (c *databaseClock) observe(remote, sent, received time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.local.IsZero() {
		c.local, c.remote = sent.Add(received.Sub(sent)/2), remote
		return
	}
	earliest, latest := remote, remote.Add(received.Sub(sent)) // at received
	now := c.remote.Add(received.Sub(c.local))
	switch {
	case now.Before(earliest):
		now = earliest
	case now.After(latest):
		now = latest
	}
	c.local, c.remote = received, now
}

// now is the database's time, or the local one before the first reading.
func (c *databaseClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.local.IsZero() {
		return time.Now()
	}
	return c.remote.Add(time.Since(c.local))
}

// sampleClock stamps cycles: microseconds, as the table keeps them, and each
// strictly later than the one before, even where the clock below goes back.
type sampleClock struct {
	last    time.Time // the newest stamp
	taken   time.Time // the local instant it was taken at
	current func() time.Time
}

// stamp is the time of a cycle that starts now. After a step back of the
// database's clock it goes on from the last stamp at nine tenths of its pace
// until the clock has caught up: no point repeats, none is out of order, and no
// hour of samples piles up on one microsecond.
func (c *sampleClock) stamp() time.Time {
	local := time.Now()
	t := c.current().UTC().Truncate(time.Microsecond)
	if !c.taken.IsZero() {
		if slowest := c.last.Add(local.Sub(c.taken) * 9 / 10).Truncate(time.Microsecond); t.Before(slowest) {
			t = slowest
		}
	}
	if !t.After(c.last) {
		t = c.last.Add(time.Microsecond)
	}
	c.last, c.taken = t, local
	return t
}

// raise makes later stamps later than t, the newest stored cycle.
func (c *sampleClock) raise(t time.Time) {
	if t.After(c.last) {
		c.last, c.taken = t.UTC(), time.Time{}
	}
}

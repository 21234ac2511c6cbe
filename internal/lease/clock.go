package lease

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

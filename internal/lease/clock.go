package lease

import (
	"sync"
	"time"
)

// databaseClock tells the database's time between two readings of it. Every replica
// stamps its samples by that clock. The worker's own wall clock, which may jump, is
// not used: between readings it advances with Go's monotonic clock.
type databaseClock struct {
	mu sync.Mutex
	// At the local instant local, the database's clock read remote.
	local, remote time.Time
}

// observe takes a reading that was asked for at sent and came back at received. The
// database read its clock somewhere in between, so the clock moves only if it is
// outside these bounds, and only to the nearer bound. So round trips of different
// lengths do not change the distances between samples.
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

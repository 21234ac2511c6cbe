package collectors

import (
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
)

// sampleClock stamps cycles in microseconds, as the table keeps them. Each stamp is
// later than the one before, even if the database's clock goes back.
type sampleClock struct {
	current   func() time.Time
	last      time.Time // the newest stamp
	stampedAt time.Time // when it was taken, by the local clock
	faults    faultlog.Log
}

// next stamps the cycle that begins now, later than the newest stored cycle and the
// newest buffered one.
func (c *sampleClock) next(log zerolog.Logger, stored, buffered time.Time) time.Time {
	c.notBefore(stored)
	c.notBefore(buffered)
	at, wasAhead := c.stamp()
	var fault error
	if wasAhead > 0 {
		fault = fmt.Errorf("samples were stamped %s ahead", wasAhead.Round(time.Second))
	}
	c.faults.Observe(log, fault, "the database's clock was wrong, samples go back to the true time", "the database's clock is steady")
	return at
}

// stamp is the time of a cycle that begins now. If the database's clock has gone back,
// stamps continue from the last one at nine tenths of real time until the clock has
// caught up: a microsecond a cycle would pile hours of samples on one point of a chart.
// A step back of more than lease.FutureLimit means that the clock was wrong before:
// stamps go back with it, and wasAhead is by how much.
func (c *sampleClock) stamp() (t time.Time, wasAhead time.Duration) {
	local := time.Now()
	t = c.current().UTC().Truncate(time.Microsecond)
	if ahead := c.last.Sub(t); ahead > lease.FutureLimit {
		c.last, c.stampedAt, wasAhead = time.Time{}, time.Time{}, ahead
	}
	if !c.stampedAt.IsZero() {
		if slowest := c.last.Add(local.Sub(c.stampedAt) * 9 / 10).Truncate(time.Microsecond); t.Before(slowest) {
			t = slowest
		}
	}
	if !t.After(c.last) {
		t = c.last.Add(time.Microsecond)
	}
	c.last, c.stampedAt = t, local
	return t, wasAhead
}

// notBefore makes later stamps later than t, unless a wrong clock has stamped t.
func (c *sampleClock) notBefore(t time.Time) {
	if t.After(c.last) && t.Sub(c.current()) <= lease.FutureLimit {
		c.last, c.stampedAt = t.UTC(), time.Time{}
	}
}

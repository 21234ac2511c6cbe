package collectors

import (
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
)

// stamps are the times of cycles.
type stamps struct {
	clock  sampleClock
	faults faultlog.Log
}

// next is the time of the cycle that begins now, later than the newest ones that are
// stored and that wait.
func (s *stamps) next(log zerolog.Logger, stored, waiting time.Time) time.Time {
	s.clock.notBefore(stored)
	s.clock.notBefore(waiting)
	at, wasAhead := s.clock.stamp()
	var fault error
	if wasAhead > 0 {
		fault = fmt.Errorf("samples were stamped %s ahead", wasAhead.Round(time.Second))
	}
	s.faults.Observe(log, fault, "the database's clock was wrong, samples go back to the true time", "the database's clock is steady")
	return at
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
// hour of samples piles up on one microsecond. After a step back by more than
// lease.FutureLimit the clock was wrong before, and stamps go back with it;
// wasAhead is by how much.
func (c *sampleClock) stamp() (t time.Time, wasAhead time.Duration) {
	local := time.Now()
	t = c.current().UTC().Truncate(time.Microsecond)
	if ahead := c.last.Sub(t); ahead > lease.FutureLimit {
		c.last, c.taken, wasAhead = time.Time{}, time.Time{}, ahead
	}
	if !c.taken.IsZero() {
		if slowest := c.last.Add(local.Sub(c.taken) * 9 / 10).Truncate(time.Microsecond); t.Before(slowest) {
			t = slowest
		}
	}
	if !t.After(c.last) {
		t = c.last.Add(time.Microsecond)
	}
	c.last, c.taken = t, local
	return t, wasAhead
}

// notBefore makes later stamps later than t, the newest stored cycle, unless a
// clock that was wrong has stamped that.
func (c *sampleClock) notBefore(t time.Time) {
	if t.After(c.last) && t.Sub(c.current()) <= lease.FutureLimit {
		c.last, c.taken = t.UTC(), time.Time{}
	}
}

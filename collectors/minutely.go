package collectors

import (
	"sync"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// minutes is what was last stored in which minute, of what is stored once in each: in
// the first of its cycles that has it.
type minutes map[string]time.Time

// minuteOf is the minute of a cycle.
func minuteOf(at time.Time) time.Time { return at.Truncate(time.Minute) }

// first reports whether the cycle of a time is the first of its minute that has this.
func (m minutes) first(what string, at time.Time) bool {
	minute := minuteOf(at)
	if m[what].Equal(minute) {
		return false
	}
	m[what] = minute
	return true
}

// latencies are those of the newest health check, until they are stored.
type latencies struct {
	mu    sync.Mutex
	token lease.Token // of the term that has checked
	found []spool.Sample
}

// keep takes a check in the place of the one before, stored or not.
func (l *latencies) keep(token lease.Token, observations []probe.Observation) {
	var found []spool.Sample
	for _, o := range observations {
		if o.Latency > 0 { // it has answered
			found = append(found, sampleOf(o.Service, config.LatencySample, float64(o.Latency.Microseconds())/1000))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.found = token, found
}

// take is what waits of a term, no more than once, and only where wanted says so.
func (l *latencies) take(token lease.Token, wanted func() bool) []spool.Sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != token || len(l.found) == 0 || !wanted() {
		return nil
	}
	found := l.found
	l.found = nil
	return found
}

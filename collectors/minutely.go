package collectors

import (
	"sync"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// minutes holds the last stored minute of each thing that is stored once a minute, in
// the first cycle that has it.
type minutes map[string]time.Time

// first reports whether the cycle at this time is the first of its minute to ask for
// what.
func (m minutes) first(what string, at time.Time) bool {
	minute := at.Truncate(time.Minute)
	if m[what].Equal(minute) {
		return false
	}
	m[what] = minute
	return true
}

// latencies passes the newest health check's latencies to the metrics collector.
type latencies struct {
	mu      sync.Mutex
	token   lease.Token // of the term that has checked
	pending []spool.Sample
}

// keep replaces the pending latencies, whether they were stored or not.
func (l *latencies) keep(token lease.Token, observations []probe.Observation) {
	var pending []spool.Sample
	for _, o := range observations {
		if o.Latency > 0 { // it has answered
			pending = append(pending, sampleOf(o.Service, config.LatencySample, float64(o.Latency.Microseconds())/1000))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.pending = token, pending
}

// take returns the pending latencies of a term, once, if wanted agrees.
func (l *latencies) take(token lease.Token, wanted func() bool) []spool.Sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != token || len(l.pending) == 0 || !wanted() {
		return nil
	}
	pending := l.pending
	l.pending = nil
	return pending
}

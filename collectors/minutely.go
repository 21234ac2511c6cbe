package collectors

import (
	"sync"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// stored holds when each thing that is stored less often than every cycle was stored last:
// in the first cycle of each minute, say, that has it.
type stored map[string]time.Time

// due reports whether the cycle at this time is the first of its minute, or of whatever
// every is, to ask for what.
func (s stored) due(what string, every time.Duration, at time.Time) bool {
	period := at.Truncate(every)
	if s[what].Equal(period) {
		return false
	}
	s[what] = period
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

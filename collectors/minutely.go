package collectors

import (
	"sync"
	"time"

	"ops_worker/db"
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

// minutely are the samples that are counted more often than they are stored.
var minutely = func() map[string]bool {
	names := map[string]bool{}
	for _, a := range db.Aggregates {
		for _, name := range a.Minutely {
			names[name] = true
		}
	}
	return names
}()

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

// The worker's own samples, of what has happened since they were last stored. They are
// gauges, so that none falls when another replica collects.
const (
	cycleSample    = "worker_cycle_seconds"
	skippedSample  = "worker_skipped_ticks"
	failedSample   = "worker_stores_failed"
	bufferedSample = "worker_buffered_cycles"
)

var workerSamples = []string{cycleSample, skippedSample, failedSample, bufferedSample}

// deeds are what the worker has done since its own samples were last stored.
type deeds struct {
	mu           sync.Mutex
	cycles       int // of the metrics loop
	longest      time.Duration
	skipped      int // ticks, of both loops
	storesFailed int
}

// begin forgets an earlier term.
func (d *deeds) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cycles, d.longest, d.skipped, d.storesFailed = 0, 0, 0, 0
}

// cycleEnded is told of every cycle of a loop.
func (d *deeds) cycleEnded(loop string, took time.Duration, skipped int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.skipped += skipped
	if loop == MetricsLoop {
		d.cycles++
		d.longest = max(d.longest, took)
	}
}

func (d *deeds) storeFailed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.storesFailed++
}

// take is the worker's own samples, with so many cycles that wait to be stored; none
// before a cycle has ended, and only where wanted says so.
func (d *deeds) take(buffered int, wanted func() bool) []spool.Sample {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cycles == 0 || !wanted() {
		return nil
	}
	samples := []spool.Sample{
		sampleOf(config.WorkerService, cycleSample, d.longest.Seconds()),
		sampleOf(config.WorkerService, skippedSample, float64(d.skipped)),
		sampleOf(config.WorkerService, failedSample, float64(d.storesFailed)),
		sampleOf(config.WorkerService, bufferedSample, float64(buffered)),
	}
	d.cycles, d.longest, d.skipped, d.storesFailed = 0, 0, 0, 0
	return samples
}

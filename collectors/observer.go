package collectors

import (
	"time"

	"ops_worker/internal/probe"
)

// Observer is told what a worker does, by the loop that does it. It must not block.
type Observer interface {
	// CycleEnded is called after every cycle, with the number of skipped ticks.
	CycleEnded(loop string, took time.Duration, err error, skipped int)
	// Probed is called with what the services answered.
	Probed([]probe.Observation)
	// Aggregated is called when a cycle has read the aggregates that were due.
	Aggregated(took time.Duration)
	// Counted is called for each aggregate that was read, in a cycle or beside the
	// cycles: cost is how long the database takes for it, every is how often it is due.
	Counted(aggregate string, cost, every time.Duration, failed bool)
	// Stored, Dropped and Superseded are called with the number of samples that were
	// stored, that the full buffer dropped, or whose time another replica has stored.
	Stored(samples int)
	Dropped(samples int)
	Superseded(samples int)
}

// NoObserver ignores every call.
var NoObserver Observer = noObserver{}

type noObserver struct{}

func (noObserver) CycleEnded(string, time.Duration, error, int)       {}
func (noObserver) Probed([]probe.Observation)                         {}
func (noObserver) Aggregated(time.Duration)                           {}
func (noObserver) Counted(string, time.Duration, time.Duration, bool) {}
func (noObserver) Stored(int)                                         {}
func (noObserver) Dropped(int)                                        {}
func (noObserver) Superseded(int)                                     {}

// Heart is told every turn of the loops. It must not block.
type Heart interface {
	// Beat notes that a loop turns now, and will again within interval.
	Beat(loop string, interval time.Duration)
	// Forget removes loops that have ended.
	Forget(loops ...string)
}

// NoHeart ignores every call.
var NoHeart Heart = noHeart{}

type noHeart struct{}

func (noHeart) Beat(string, time.Duration) {}
func (noHeart) Forget(...string)           {}

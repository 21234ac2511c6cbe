package collectors

import (
	"time"

	"ops_worker/internal/probe"
)

// Observer is told of what a worker does, by the loop that does it. It returns at
// once.
type Observer interface {
	// CycleEnded is told of every cycle of a loop, and of the ticks that it covered
	// besides its own.
	CycleEnded(loop string, took time.Duration, err error, skipped int)
	// Probed is told of what the services answered.
	Probed([]probe.Observation)
	// Aggregated is told of a cycle's reading of the aggregates that were due.
	Aggregated(took time.Duration)
	// Counted is told of each aggregate that was read, in a cycle or beside: how long
	// the database takes for it, how often it is due for that, and whether it failed.
	Counted(aggregate string, cost, every time.Duration, failed bool)
	// Stored, Dropped and Superseded are told of samples that were stored, that the
	// buffer had no room for, or in whose place another replica has stored its own.
	Stored(samples int)
	Dropped(samples int)
	Superseded(samples int)
}

// NoObserver is for a worker that nobody observes.
var NoObserver Observer = noObserver{}

type noObserver struct{}

func (noObserver) CycleEnded(string, time.Duration, error, int)       {}
func (noObserver) Probed([]probe.Observation)                         {}
func (noObserver) Aggregated(time.Duration)                           {}
func (noObserver) Counted(string, time.Duration, time.Duration, bool) {}
func (noObserver) Stored(int)                                         {}
func (noObserver) Dropped(int)                                        {}
func (noObserver) Superseded(int)                                     {}

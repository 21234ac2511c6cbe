package collectors

import "time"

// Heart is told of every turn of the loops. It never makes a loop wait.
type Heart interface {
	// Beat notes that a loop turns now, and will again within interval.
	Beat(loop string, interval time.Duration)
	// Forget takes out loops that have ended.
	Forget(loops ...string)
}

// NoHeart is for a worker that runs no loops.
var NoHeart Heart = noHeart{}

type noHeart struct{}

func (noHeart) Beat(string, time.Duration) {}
func (noHeart) Forget(...string)           {}

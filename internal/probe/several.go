package probe

import (
	"context"
	"time"
)

// A counter of one instance does not fall, and between two requests it grows by
// no more than this, and so much a second.
const (
	mostGrowth       = 20_000
	mostGrowthSecond = 100_000
)

// Asks is how many times to ask each of so many instances again, of these times:
// an address is the less likely to hide several the more addresses there are.
func Asks(times, instances int) int { return times / max(instances, 1) }

// SeveralAdvice is what to do where several instances answer at one address.
func SeveralAdvice(variable string) string {
	return "name each instance in " + variable + ", or let that lead to a headless service, whose name has an address for each"
}

// Several asks an instance some times more, each on a connection of its own, and
// reports whether several answer at its address: one counter of those that count
// selects is not what one instance would say. Compared is whether any answered.
func (i InstanceReading) Several(ctx context.Context, count func(name string) bool, times int) (several, compared bool) {
	if i.Again == nil {
		return false, false
	}
	before, at := i.Counters, i.at
	for range times {
		r := i.Again(ctx)
		if r.Status != Healthy {
			continue
		}
		now := time.Now()
		for name, value := range r.Counters {
			last, known := before[name]
			if known && count(name) && (value < last || value-last > mostGrowth+mostGrowthSecond*now.Sub(at).Seconds()) {
				return true, true
			}
		}
		before, at, compared = r.Counters, now, true
	}
	return false, compared
}

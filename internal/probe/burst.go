package probe

import "context"

// burstAsks is how many times in quick succession a burst asks.
const burstAsks = 8

// SeveralAdvice is what to do where several instances answer at one address.
func SeveralAdvice(variable string) string {
	return "name each instance in " + variable + ", or let that lead to a headless service, whose name has an address for each"
}

// burst is what asking an instance again and again, each time on a new connection, has
// shown so far: whether a running total fell between two answers.
type burst struct {
	fell bool
	asks int // that were answered
	last map[string]float64
}

// ask goes on with a burst until it has shown what it can, and reports whether it has: an
// instance that is slow, or refuses to be asked so often, leaves the rest to another time.
func (b *burst) ask(ctx context.Context, again Probe, total func(name string) bool) (over bool) {
	for range burstAsks {
		if b.fell || b.asks == burstAsks || ctx.Err() != nil {
			break
		}
		if r := again(ctx); r.Status == Healthy {
			b.take(r.Counters, total)
		}
	}
	return b.fell || b.asks == burstAsks
}

// take takes an answer.
func (b *burst) take(counters map[string]float64, total func(name string) bool) {
	b.fell = b.fell || fallen(b.last, counters, total)
	b.asks, b.last = b.asks+1, counters
}

// fallen reports whether a running total is less than it was.
func fallen(before, now map[string]float64, total func(name string) bool) bool {
	for name, value := range now {
		if last, known := before[name]; known && value < last && total(name) {
			return true
		}
	}
	return false
}

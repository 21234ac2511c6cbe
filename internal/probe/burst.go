package probe

import "context"

// burstAsks is how many times in quick succession a burst asks.
const burstAsks = 8

// SeveralAdvice is what to do where several instances answer at one address.
func SeveralAdvice(variable string) string {
	return "name each instance in " + variable + ", or let that lead to a headless service, whose name has an address for each"
}

// burst is what asking an instance again and again, each time on a new connection, has
// shown: whether a running total fell between two answers, and whether all asks were
// answered.
type burst struct {
	fell, whole bool
	last        map[string]float64
}

// burst asks again. Before is the answer before its first.
func (i InstanceReading) burst(ctx context.Context, total func(name string) bool, before map[string]float64) burst {
	b := burst{last: before, whole: true}
	for range burstAsks {
		r := i.Again(ctx)
		if r.Status != Healthy {
			b.whole = false
			continue
		}
		b.fell = b.fell || fallen(b.last, r.Counters, total)
		b.last = r.Counters
	}
	return b
}

// Several asks an instance in three bursts, and reports whether several answer at its
// address: a counter that falls in two of them is not one's. Of two that answer at
// random, it misses one in some three hundred.
func (i InstanceReading) Several(ctx context.Context, total func(name string) bool) bool {
	falls, last := 0, i.Counters
	for range 3 {
		b := i.burst(ctx, total, last)
		if last = b.last; b.fell {
			falls++
		}
	}
	return falls > 1
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

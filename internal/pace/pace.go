// Package pace says how often each of several jobs may run when all of them
// together have a budget of time.
package pace

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Job is something that takes Cost each time and is wanted every Interval.
type Job struct{ Interval, Cost time.Duration }

// Intervals returns how long each job's interval has to be for all jobs together to
// keep busy no more than budget, a share of the wall time. None is shorter than it
// is wanted. Cheap jobs come first: they keep theirs, as long as that takes no more
// than an equal part. The others share what is left in such a way that the sum of
// their delays, each as a multiple of what is wanted, is least: by the square roots
// of the shares that they would like. One job alone takes it all: a second's work at
// a budget of 2 % is due every 50 s.
func Intervals(budget float64, jobs []Job) []time.Duration {
	wanted := func(i int) float64 { return jobs[i].Cost.Seconds() / jobs[i].Interval.Seconds() }
	order := make([]int, len(jobs))
	roots := 0.0 // of those whose share is not settled
	for i := range jobs {
		order[i] = i
		roots += math.Sqrt(wanted(i))
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(wanted(a), wanted(b)) })
	intervals := make([]time.Duration, len(jobs))
	others := float64(len(jobs))
	for _, i := range order {
		share := wanted(i)
		root := math.Sqrt(share)
		allowed := budget * root / roots
		if share <= budget/others || share <= allowed {
			intervals[i] = jobs[i].Interval
			budget -= share
			roots -= root
			others--
		} else {
			intervals[i] = time.Duration(jobs[i].Cost.Seconds() / allowed * float64(time.Second))
		}
	}
	return intervals
}

// Overdue is how long something that comes every interval may be silent: three of them.
func Overdue(interval time.Duration) time.Duration { return 3 * interval }

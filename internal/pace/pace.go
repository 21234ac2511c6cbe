// Package pace says how often each of several jobs may run when all of them together
// have a budget of time, and when one that comes at intervals is overdue.
package pace

import (
	"cmp"
	"slices"
	"time"
)

// Job is something that takes Cost each time and is wanted every Interval.
type Job struct{ Interval, Cost time.Duration }

// share is the part of the wall time that the job would like.
func (j Job) share() float64 { return j.Cost.Seconds() / j.Interval.Seconds() }

// Intervals returns how long each job's interval has to be for all jobs together to
// keep busy no more than budget, a share of the wall time. None is shorter than it is
// wanted. Each may have an equal part, and what the cheap ones leave of theirs the
// others share. One job alone takes it all: a second's work at a budget of 2 % is due
// every 50 s.
func Intervals(budget float64, jobs []Job) []time.Duration {
	order := make([]int, len(jobs))
	for i := range jobs {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(jobs[a].share(), jobs[b].share()) })
	intervals := make([]time.Duration, len(jobs))
	for n, i := range order {
		allowed := budget / float64(len(jobs)-n)
		intervals[i] = jobs[i].Interval
		if jobs[i].share() > allowed {
			intervals[i] = time.Duration(jobs[i].Cost.Seconds() / allowed * float64(time.Second))
		}
		budget -= min(jobs[i].share(), allowed)
	}
	return intervals
}

// Overdue is how long something that comes every interval may be silent: three of them.
func Overdue(interval time.Duration) time.Duration { return 3 * interval }

// Package pace computes how often jobs may run that share a budget of time, and when
// something that comes at intervals is overdue.
package pace

import (
	"cmp"
	"slices"
	"time"
)

// Job is something that takes Cost each time and is wanted every Interval.
type Job struct{ Interval, Cost time.Duration }

// share is the part of wall time that the job takes at its wanted interval.
func (j Job) share() float64 { return j.Cost.Seconds() / j.Interval.Seconds() }

// Intervals returns an interval for each job, so that all jobs together take at most
// budget, a share of wall time. No interval is shorter than the job wants. Each job may
// take an equal part of the budget; what cheap jobs do not need, the others share. For
// example, a single job of one second at a budget of 2 % runs every 50 s.
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

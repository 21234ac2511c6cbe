package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ops_worker/collectors"
	"ops_worker/db"
)

// The other writer is looked for in so many intervals, within these bounds.
const (
	windowIntervals = 120
	minWindow       = time.Minute
	maxWindow       = time.Hour
)

func (x *examination) window() time.Duration {
	return min(max(windowIntervals*x.cfg.MetricsInterval, minWindow), maxWindow)
}

// tooClose is the share of an interval under which two points of a series are
// not one writer's. Where two write at the same interval, one of the two gaps
// between their points is at most half of it; the rest is for jitter.
const tooClose = 0.75

func (x *examination) seriesParams() db.DoctorSeriesParams {
	_, metrics := x.series()
	for _, s := range x.services {
		metrics = append(metrics, s.Counters...)
	}
	slices.Sort(metrics)
	return db.DoctorSeriesParams{
		GapSeconds:    x.cfg.MetricsInterval.Seconds() * tooClose,
		MetricNames:   slices.Compact(metrics),
		WindowSeconds: x.window().Seconds(),
	}
}

// Fewer points than these that are too close are a restart or a take-over.
const (
	minClosePoints = 3
	minCloseShare  = 0.02
)

// checkOtherWriter looks for what the lease does not account for. Every sample
// of ours moves the lease's last_cycle_at in its own transaction, a cycle of
// ours has one time, and so have the health rows of one.
func checkOtherWriter(ctx context.Context, x *examination, f *findings) error {
	if err := x.require(ctx, "system_metrics", "service_health"); err != nil {
		return err
	}
	stand, err := x.standing(ctx)
	if err != nil {
		return err
	}
	params := x.seriesParams()
	var lease leaseState
	var writes db.DoctorNewestWritesRow
	var series []db.DoctorSeriesRow
	var health []db.DoctorHealthRowsRow
	// One snapshot, so that the lease and the samples are of one moment.
	if err := x.read(ctx, func(q *db.Queries) (err error) {
		if _, ok := stand[leaseTable]; ok {
			if lease, err = readLease(ctx, q); err != nil {
				return err
			}
		}
		if writes, err = q.DoctorNewestWrites(ctx, params.MetricNames); err != nil {
			return err
		}
		if health, err = q.DoctorHealthRows(ctx); err != nil {
			return err
		}
		series, err = q.DoctorSeries(ctx, params)
		return err
	}); err != nil {
		return err
	}

	now := writes.Now
	recent := max(patience*x.cfg.MetricsInterval, 90*time.Second)
	// While the lease is held, another writer spoils the charts; while it is
	// free, the other one is what collects today.
	found := f.warn
	advice := "this is the state before the cut-over; docs/cut-over.md says how to end it before the worker is started"
	if lease.held() > 0 {
		found = f.fail
		advice = "take the two tasks out of the API process, or stop the old worker: docs/cut-over.md; `connected` shows who is there"
	}

	if n, s := interleaved(series); n > 0 {
		text := fmt.Sprintf("two write %d series: of %s of %s, %d of %d points in %s follow the one before sooner than the interval of %s, the latest %s ago",
			n, s.MetricName, s.Service, s.Close, s.Points, age(x.window()), age(x.cfg.MetricsInterval), age(now.Sub(s.LatestClose)))
		if now.Sub(s.LatestClose) < recent {
			found(advice, "%s", text)
		} else {
			f.warn("nothing, if that was the cut-over: it passes when the time named has; else look who wrote then", "%s", text)
		}
	}

	if at := writes.NewestSample; at.After(lease.LastCycleAt) && now.Sub(at) < recent {
		found(advice, "system_metrics has a sample of %s ago that no ops-worker wrote: the lease knows nothing of it", age(now.Sub(at)))
	}
	x.foreignHealth(lease, writes, health, func(format string, args ...any) { found(advice, format, args...) })
	for _, s := range series {
		if s.MetricName == "healthy" && s.Service != "" && !x.samples(s.Service) && now.Sub(s.Newest) < recent &&
			lease.held() > recent {
			found("set "+variableOf(s.Service)+" here as for the worker; else something else writes: "+advice,
				"samples of %s still come, which is not monitored by these settings", s.Service)
		}
	}
	if f.result == OK {
		f.note("none in the last %s: every sample is the lease holder's", age(x.window()))
		if lease.held() == 0 {
			f.found[len(f.found)-1] = fmt.Sprintf("none in the last %s", age(x.window()))
		}
	}
	return nil
}

// interleaved is how many series have two writers, and the one of them that had
// them last.
func interleaved(series []db.DoctorSeriesRow) (n int, latest db.DoctorSeriesRow) {
	for _, s := range series {
		if s.Close < minClosePoints || float64(s.Close) < minCloseShare*float64(s.Points) {
			continue
		}
		if n++; n == 1 || s.LatestClose.After(latest.LatestClose) {
			latest = s
		}
	}
	return n, latest
}

// samples reports whether a worker with these settings samples a service.
func (x *examination) samples(service string) bool {
	return service == "postgres" || slices.ContainsFunc(x.services, func(s collectors.Service) bool { return s.Name == service && s.Sampled })
}

// foreignHealth looks for health rows that no ops-worker wrote: ours writes all
// of a cycle in one statement, with one time, and only while it has the lease.
func (x *examination) foreignHealth(lease leaseState, writes db.DoctorNewestWritesRow, health []db.DoctorHealthRowsRow, found func(string, ...any)) {
	now := writes.Now
	if lease.held() == 0 {
		// A second for the transaction that ended just before the lease did.
		if at := writes.NewestCheck; now.Sub(at) < patience*x.cfg.HealthInterval && at.After(lease.ExpiresAt.Add(time.Second)) {
			found("service_health was refreshed %s ago, while nobody holds the lease", age(now.Sub(at)))
		}
		return
	}
	var first, last time.Time
	for _, row := range health {
		if !x.monitors(row.Service) {
			continue
		}
		if first.IsZero() || row.CheckedAt.Before(first) {
			first = row.CheckedAt
		}
		if row.CheckedAt.After(last) {
			last = row.CheckedAt
		}
	}
	if spread := last.Sub(first); spread > 0 && now.Sub(first) < 2*x.cfg.HealthInterval && first.After(lease.AcquiredAt) {
		found("the rows of service_health are of %s apart, while the worker writes all of a cycle with one time", age(spread))
	}
}

// maxSessions is how many kinds of sessions are listed.
const maxSessions = 12

func checkConnected(ctx context.Context, x *examination, f *findings) error {
	var rows []db.DoctorSessionsRow
	if err := x.read(ctx, func(q *db.Queries) (err error) {
		rows, err = q.DoctorSessions(ctx, x.applicationName())
		return err
	}); err != nil {
		return err
	}
	if len(rows) == 0 {
		f.note("nobody else")
	}
	for i, r := range rows {
		if i == maxSessions {
			f.note("and %d more kinds", len(rows)-i)
			break
		}
		name, address := r.ApplicationName, r.ClientAddress
		if name == "" {
			name = "(no application_name)"
		}
		if address == "" {
			address = "a Unix socket or an address not shown"
		}
		f.note("%d x %s as %s from %s", r.Sessions, oneLine(name), r.LoginRole, address)
	}
	return nil
}

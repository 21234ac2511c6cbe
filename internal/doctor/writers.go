package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
)

// The other writer is looked for in so many intervals, within these bounds.
const (
	windowIntervals = 120
	minWindow       = time.Minute
	maxWindow       = time.Hour
)

func window(interval time.Duration) time.Duration {
	return min(max(windowIntervals*interval, minWindow), maxWindow)
}

// tooClose is the share of an interval under which two points of a series are
// not one writer's. Where two write at the same interval, one of the two gaps
// between their points is at most half of it; the rest is for jitter.
const tooClose = 0.75

// seriesParams asks for every point in the window of the series of every cycle. Of
// the others a name may have several points of one time.
func (r *run) seriesParams(ctx context.Context) (db.DoctorSeriesParams, error) {
	expected, err := r.expectedSeries(ctx)
	if err != nil {
		return db.DoctorSeriesParams{}, err
	}
	interval, err := r.metricsInterval(ctx)
	if err != nil {
		return db.DoctorSeriesParams{}, err
	}
	_, metrics := columns(slices.DeleteFunc(slices.Clone(expected), func(s series) bool { return s.every > interval }))
	slices.Sort(metrics)
	return db.DoctorSeriesParams{
		GapSeconds:    interval.Seconds() * tooClose,
		MetricNames:   slices.Compact(metrics),
		WindowSeconds: window(interval).Seconds(),
	}, nil
}

// Fewer points than these that are too close are a restart or a take-over.
const (
	minClosePoints = 3
	minCloseShare  = 0.02
)

// evidence is what the tables say of their writers at one moment.
type evidence struct {
	lease  leaseState
	writes db.NewestWritesRow
	series []db.DoctorSeriesRow
	health []db.DoctorHealthRowsRow
	// interval is how often a writer of ours comes, window for how long its traces
	// are looked at, and recent how old one may be of a writer still at work.
	interval, window, recent time.Duration
}

func (r *run) evidence(ctx context.Context, f *findings) (e evidence, err error) {
	stands, err := r.standing(ctx)
	if err != nil {
		return e, err
	}
	params, err := r.seriesParams(ctx)
	if err != nil {
		return e, err
	}
	if e.interval, err = r.metricsInterval(ctx); err != nil {
		return e, err
	}
	e.window, e.recent = window(e.interval), max(patience*e.interval, 90*time.Second)
	// One snapshot, so that the lease and the samples are of one moment.
	err = r.read(ctx, func(q *db.Queries) error {
		if _, ok := stands[db.LeaseTable]; ok {
			if e.lease, err = readLease(ctx, q); err != nil {
				return err
			}
		}
		if e.writes, err = lease.NewestWrites(ctx, q, params.MetricNames); err != nil {
			return err
		}
		if e.health, err = q.DoctorHealthRows(ctx); err != nil {
			return err
		}
		e.series, err = q.DoctorSeries(ctx, params)
		return err
	})
	return e, err
}

// What to do about another writer depends on the platform's release: the names in
// quotes are parts of the guide.
const (
	adviceBefore = "this is the state before the cut-over; docs/cut-over.md says how to end it before the worker is started: " +
		`"API" where the API process collects, "Beside" where the platform's own ops_worker does`
	adviceWhileHeld = `take the two tasks out of what else runs them: out of the API process (docs/cut-over.md, "API"), or on the newest release ` +
		`the two lines out of the platform's own ops_worker, which goes on with its other jobs ("Beside"); ` + "`connected` shows who is there"
)

// checkOtherWriter looks for what the lease does not account for. Every sample
// of ours moves the lease's last_cycle_at in its own transaction, a cycle of
// ours has one time, and so have the health rows of one.
func checkOtherWriter(ctx context.Context, r *run, f *findings) error {
	if err := r.require(ctx, "system_metrics", "service_health"); err != nil {
		return err
	}
	e, err := r.evidence(ctx, f)
	if err != nil {
		return err
	}
	// While the lease is held, another writer spoils the charts; while it is
	// free, the other one is what collects today.
	found := f.warn
	advice := adviceBefore
	if e.lease.held() > 0 {
		found, advice = f.fail, adviceWhileHeld
	}
	now := e.writes.Now
	if n, s := interleaved(e.series); n > 0 {
		text := fmt.Sprintf("two write %d series: of %s of %s, %d of %d points in %s follow the one before sooner than the interval of %s, the latest %s ago",
			n, s.MetricName, s.Service, s.Close, s.Points, age(e.window), age(e.interval), age(now.Sub(s.LatestClose)))
		if now.Sub(s.LatestClose) < e.recent {
			found(advice, "%s", text)
		} else {
			f.warn("nothing, if that was the cut-over: it passes when the time named has; else look who wrote then", "%s", text)
		}
	}
	if at := e.writes.NewestSample; lease.ForeignSample(e.lease.ReadLeaseRow, at) && now.Sub(at) < e.recent {
		found(advice, "system_metrics has a sample of %s ago that no ops-worker wrote: the lease knows nothing of it", age(now.Sub(at)))
	}
	r.foreignHealth(e.lease, e.writes, e.health, func(format string, args ...any) { found(advice, format, args...) })
	for _, s := range e.series {
		if s.MetricName == config.HealthSample && s.Service != "" && !r.samples(s.Service) && now.Sub(s.Newest) < e.recent && e.lease.held() > e.recent {
			found("set "+variableOf(s.Service)+" here as for the worker; else something else writes: "+advice,
				"samples of %s still come, which is not monitored by these settings", s.Service)
		}
	}
	switch {
	case f.result != OK:
	case e.lease.held() == 0:
		f.note("none in the last %s", age(e.window))
	default:
		f.note("none in the last %s: every sample is the lease holder's", age(e.window))
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
func (r *run) samples(service string) bool {
	return slices.ContainsFunc(r.targets, func(t probe.Target) bool {
		return t.Name == service && (t.Kind == config.ProbeCounters || t.Kind == config.ProbeDatabase)
	})
}

// foreignHealth looks for health rows that no ops-worker wrote: ours writes all
// of a cycle in one statement, with one time, and only while it has the lease.
func (r *run) foreignHealth(held leaseState, writes db.NewestWritesRow, health []db.DoctorHealthRowsRow, found func(string, ...any)) {
	now := writes.Now
	if held.held() == 0 {
		if at := writes.NewestCheck; now.Sub(at) < patience*r.cfg.HealthInterval && lease.ForeignCheck(held.ReadLeaseRow, at) {
			found("service_health was refreshed %s ago, while nobody holds the lease", age(now.Sub(at)))
		}
		return
	}
	var first, last time.Time
	for _, row := range health {
		if !r.monitors(row.Service) {
			continue
		}
		if first.IsZero() || row.CheckedAt.Before(first) {
			first = row.CheckedAt
		}
		if row.CheckedAt.After(last) {
			last = row.CheckedAt
		}
	}
	if spread := last.Sub(first); spread > 0 && now.Sub(first) < 2*r.cfg.HealthInterval && first.After(held.AcquiredAt) {
		found("the rows of service_health are of %s apart, while the worker writes all of a cycle with one time", age(spread))
	}
}

// maxSessions is how many kinds of sessions are listed.
const maxSessions = 12

func checkConnected(ctx context.Context, r *run, f *findings) error {
	var rows []db.DoctorSessionsRow
	if err := r.read(ctx, func(q *db.Queries) (err error) {
		rows, err = q.DoctorSessions(ctx, r.applicationName())
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
		f.note("%d x %s as %s from %s", r.Sessions, humanize.OneLine(name), r.LoginRole, address)
	}
	return nil
}

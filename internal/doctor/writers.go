package doctor

import (
	"context"
	"slices"
	"time"

	"ops_worker/db"
	"ops_worker/internal/humanize"
	"ops_worker/internal/lease"
	"ops_worker/internal/schema"
)

// evidence is what the tables say of their writers at one moment.
type evidence struct {
	lease  leaseState
	writes db.NewestWritesRow
	// recent is how old a trace may be of a writer still at work.
	recent time.Duration
}

func (r *run) evidence(ctx context.Context) (e evidence, err error) {
	stands, err := r.standing(ctx)
	if err != nil {
		return e, err
	}
	expected, err := r.expectedSeries(ctx)
	if err != nil {
		return e, err
	}
	interval, err := r.metricsInterval(ctx)
	if err != nil {
		return e, err
	}
	e.recent = max(patience*interval, 90*time.Second)
	_, metrics := columns(expected)
	// One snapshot, so that the lease and the samples are of one moment.
	err = r.read(ctx, func(q *db.Queries) error {
		if _, ok := stands[schema.LeaseTable]; ok {
			if e.lease, err = readLease(ctx, q); err != nil {
				return err
			}
		}
		slices.Sort(metrics)
		e.writes, err = lease.NewestWrites(ctx, q, slices.Compact(metrics))
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

// checkOtherWriter looks for what the lease does not account for: every sample of ours
// moves the lease's last_cycle_at in its own transaction, and every health row of ours
// is written under the lease.
func checkOtherWriter(ctx context.Context, r *run, f *findings) error {
	if err := r.require(ctx, "system_metrics", "service_health"); err != nil {
		return err
	}
	e, err := r.evidence(ctx)
	if err != nil {
		return err
	}
	// While the lease is held, another writer spoils the charts; while it is
	// free, the other one is what collects today.
	found, advice := f.warn, adviceBefore
	if e.lease.held() > 0 {
		found, advice = f.fail, adviceWhileHeld
	}
	now := e.writes.Now
	if at := e.writes.NewestSample; lease.ForeignSample(e.lease.ReadLeaseRow, at) && now.Sub(at) < e.recent {
		found(advice, "system_metrics has a sample of %s ago that no ops-worker wrote: the lease knows nothing of it", age(now.Sub(at)))
	}
	if at := e.writes.NewestCheck; e.lease.held() == 0 && now.Sub(at) < patience*r.cfg.HealthInterval && lease.ForeignCheck(e.lease.ReadLeaseRow, at) {
		found(advice, "service_health was refreshed %s ago, while nobody holds the lease", age(now.Sub(at)))
	}
	switch {
	case f.result != OK:
	case e.lease.held() == 0:
		f.note("none")
	default:
		f.note("none: the newest sample is the lease holder's")
	}
	return nil
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

package doctor

import (
	"cmp"
	"context"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/lease"
	"ops_worker/internal/pace"
)

// leaseState is who collects, and what was written last.
type leaseState struct {
	db.ReadLeaseRow
	exists bool // somebody has collected once
	newest db.DoctorNewestWritesRow
}

// held is for how long the lease has been held; 0 where it is free.
func (l leaseState) held() time.Duration {
	if !l.exists || !l.Held {
		return 0
	}
	return l.Now.Sub(l.AcquiredAt)
}

// read reads the newest writes, and then the lease: one that is stored meanwhile moves
// it. Each has a transaction of its own, as its table may be missing.
func (l *leaseState) read(ctx context.Context, d *database, cfg config.Config) error {
	params := db.DoctorNewestWritesParams{FutureSeconds: lease.FutureLimit.Seconds(), Monitored: cfg.Monitored(), OverdueSeconds: pace.Overdue(cfg.HealthInterval).Seconds()}
	err := d.read(ctx, func(q *db.Queries) (err error) {
		l.newest, err = q.DoctorNewestWrites(ctx, params)
		return err
	})
	if err != nil {
		return err
	}
	err = d.read(ctx, func(q *db.Queries) (err error) {
		l.ReadLeaseRow, err = q.ReadLease(ctx, db.LeaseName)
		return err
	})
	if l.exists = err == nil; db.IsNoRows(err) {
		return nil
	}
	if db.IsLocked(err) {
		l.newest = db.DoctorNewestWritesRow{} // without the lease it tells nothing
	}
	return err
}

// interval is how often cycles come: by the lease's word, which is the worker's own,
// and else by the settings here.
func (r *run) interval() time.Duration {
	if r.lease.exists && r.lease.CycleSeconds > 0 {
		return time.Duration(r.lease.CycleSeconds * float64(time.Second))
	}
	return r.cfg.MetricsInterval
}

const startWorker = "start the worker, unless something else is to collect"

func checkLease(ctx context.Context, r *run, f *findings) error {
	if err := r.lease.read(ctx, r.database, r.cfg); err != nil {
		return err
	}
	lease, interval := r.lease, r.interval()
	if lease.exists && !lease.Held {
		// A worker may be there, and kept from renewing it.
		if err := r.database.try(ctx, func(q *db.Queries) error { _, err := q.LockLease(ctx, db.LeaseName); return err }); db.IsLocked(err) {
			return err
		}
	}
	switch {
	case !lease.exists:
		f.warn(startWorker, "free: no ops-worker has ever collected here")
	case lease.FromTheFuture:
		f.fail("start a worker, which takes it, or: UPDATE ops_worker_lease SET expires_at = now(); and check the database's clock",
			"%s holds it for %s more, which is longer than a lease lasts: a clock was wrong, or somebody wrote there", cmp.Or(lease.Holder, "nobody"), humanize.Age(lease.ExpiresAt.Sub(lease.Now)))
	case !lease.Held:
		ended := "held it"
		if lease.Holder == "" {
			ended = "handed it back"
		}
		f.warn(startWorker, "free: %s %s (epoch %d) %s ago", cmp.Or(lease.Holder, lease.LastHolder, "nobody"), ended, lease.Epoch, humanize.Age(lease.Now.Sub(lease.ExpiresAt)))
	default:
		f.note("%s collects since %s (epoch %d, %s ago); the lease runs %s more unless renewed", lease.Holder,
			lease.AcquiredAt.UTC().Format(time.DateTime), lease.Epoch, humanize.Age(lease.held()), humanize.Age(lease.ExpiresAt.Sub(lease.Now)))
		if interval != r.cfg.MetricsInterval {
			f.note("it collects every %s; METRICS_COLLECTION_INTERVAL is %s here", humanize.Age(interval), humanize.Age(r.cfg.MetricsInterval))
		}
		if silent := min(lease.Now.Sub(lease.LastCycleAt), lease.held()); silent > pace.Overdue(interval) {
			f.warn("see its log", "it has stored no metrics cycle for %s", humanize.Age(silent))
		}
		if silent := min(lease.Now.Sub(lease.newest.NewestCheck), lease.held()); silent > pace.Overdue(r.cfg.HealthInterval) {
			f.warn("see its log; HEALTH_CHECK_INTERVAL must be set here as for the worker", "it has checked no service for %s", humanize.Age(silent))
		}
	}
	return nil
}

// What to do about another writer depends on the platform's release: the names in
// quotes are parts of the guide.
const (
	adviceBefore = "this is the state before the cut-over; docs/cut-over.md says how to end it before the worker is started: " +
		`"API" where the API process collects, "Replace" where the platform's own ops_worker does and nothing else, "Beside" where that has further jobs`
	adviceWhileHeld = `end the two tasks where else they run (docs/cut-over.md): in the API process ("API"), or in the platform's own ops_worker, ` +
		`which goes ("Replace") or goes on with its other jobs ("Beside"); ` + "`connections` shows who is there"
)

// checkOtherWriter looks for what the lease does not account for: every sample of ours
// moves the lease's last_cycle_at in its own transaction, and every health row of ours
// is written under the lease.
func checkOtherWriter(_ context.Context, r *run, f *findings) error {
	state := r.lease
	writes := state.newest
	if writes.Now.IsZero() {
		return skip("see lease")
	}
	// While the lease is held, another writer spoils the charts; while it is
	// free, the other one is what collects today.
	found, advice := f.warn, adviceBefore
	if state.held() > 0 {
		found, advice = f.fail, adviceWhileHeld
	}
	recent := max(pace.Overdue(r.interval()), 90*time.Second)
	if old := writes.Now.Sub(writes.NewestSample); writes.NewestSample.After(state.LastCycleAt) && old < recent {
		found(advice, "system_metrics has a sample of %s ago that no ops-worker wrote: the lease knows nothing of it", humanize.Age(old))
	}
	// The last transaction under a lease may have ended just before the lease did.
	ended := state.ExpiresAt.Add(time.Second)
	if old := writes.Now.Sub(writes.NewestCheck); state.held() == 0 && writes.NewestCheck.After(ended) && old < pace.Overdue(r.cfg.HealthInterval) {
		found(advice, "service_health was refreshed %s ago, while nobody holds the lease", humanize.Age(old))
	}
	if f.result == OK {
		f.note("none")
	}
	return nil
}

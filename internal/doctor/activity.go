package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"ops_worker/collectors"
	"ops_worker/db"
)

// leaseState is who collects; exists is false where nobody ever has.
type leaseState struct {
	db.ReadLeaseRow
	exists bool
}

func readLease(ctx context.Context, q *db.Queries) (leaseState, error) {
	row, err := q.ReadLease(ctx, collectors.LeaseName)
	if db.IsNoRows(err) {
		return leaseState{}, nil
	}
	return leaseState{ReadLeaseRow: row, exists: err == nil}, err
}

func (x *examination) holder(ctx context.Context) (leaseState, error) {
	if err := x.require(ctx, leaseTable); err != nil {
		return leaseState{}, err
	}
	return x.lease.get(ctx, x, readLease)
}

// holderIfAny is holder for a check that goes on where there is no lease yet.
func (x *examination) holderIfAny(ctx context.Context) (leaseState, error) {
	lease, err := x.holder(ctx)
	var skipped *skipError
	if errors.As(err, &skipped) {
		return leaseState{}, nil
	}
	return lease, err
}

// patience is how many intervals may pass without what comes once an interval.
const patience = 3

// held is for how long the lease has been held; 0 where it is free.
func (l leaseState) held() time.Duration {
	if !l.exists || !l.Held {
		return 0
	}
	return l.Now.Sub(l.AcquiredAt)
}

func checkLease(ctx context.Context, x *examination, f *findings) error {
	lease, err := x.holder(ctx)
	if err != nil {
		return err
	}
	const start = "start the worker, unless something else is to collect"
	switch {
	case !lease.exists:
		f.warn(start, "free: no ops-worker has ever collected here")
	case !lease.Held:
		f.warn(start, "free: %s held it (epoch %d) until %s ago", lease.Holder, lease.Epoch, age(lease.Now.Sub(lease.ExpiresAt)))
	default:
		f.note("%s collects since %s (epoch %d, %s ago); the lease runs %s more unless renewed", lease.Holder,
			lease.AcquiredAt.UTC().Format(time.DateTime), lease.Epoch, age(lease.held()), age(lease.ExpiresAt.Sub(lease.Now)))
		silent := lease.Now.Sub(lease.LastCycleAt)
		if longest := patience * x.cfg.MetricsInterval; silent > longest && lease.held() > longest {
			f.warn("see its log; METRICS_COLLECTION_INTERVAL must be the worker's own", "it has stored no metrics cycle for %s", since(lease.LastCycleAt, lease.Now))
		}
	}
	return nil
}

// since is how long ago something was, or that it never was.
func since(at, now time.Time) string {
	if at.Unix() <= 0 {
		return "as long as it runs"
	}
	return age(now.Sub(at))
}

// series are those that a worker with these settings writes in every cycle.
func (x *examination) series() (services, metrics []string) {
	add := func(service string, names ...string) {
		for _, name := range names {
			services, metrics = append(services, service), append(metrics, name)
		}
	}
	for _, s := range x.services {
		if s.Sampled {
			add(s.Name, "healthy")
		}
	}
	add("postgres", "healthy", "connections", "db_size_bytes")
	add("platform", "devices_online", "devices_stale", "alerts_open", "deliveries_pending")
	return services, metrics
}

// futureSlack is how far ahead of the database's clock a sample may be before
// it is called one from the future: the worker goes by its last reading of it.
const futureSlack = 2 * time.Second

func checkSamples(ctx context.Context, x *examination, f *findings) error {
	if err := x.require(ctx, "system_metrics"); err != nil {
		return err
	}
	lease, err := x.holderIfAny(ctx)
	if err != nil {
		return err
	}
	services, metrics := x.series()
	var now time.Time
	var rows []db.DoctorNewestSamplesRow
	if err := x.read(ctx, func(q *db.Queries) (err error) {
		if now, err = q.Now(ctx); err != nil {
			return err
		}
		rows, err = q.DoctorNewestSamples(ctx, db.DoctorNewestSamplesParams{Services: services, MetricNames: metrics})
		return err
	}); err != nil {
		return err
	}

	longest := patience * x.cfg.MetricsInterval
	expected := lease.held() > longest
	newest := map[string]time.Time{}
	for _, r := range rows {
		if r.Newest.After(newest[r.Service]) {
			newest[r.Service] = r.Newest
		}
	}
	const late = "see the worker's log for why; METRICS_COLLECTION_INTERVAL and the services must be set here as for the worker"
	const never = "no sample yet"
	var ages []string
	for _, service := range slices.Compact(slices.Clone(services)) {
		at := newest[service]
		text := never
		if at.Unix() > 0 {
			text = age(now.Sub(at))
		}
		switch old := now.Sub(at); {
		case -old > futureSlack:
			f.warn("check the database's clock; a chart that ends now does not show the sample, and the worker's own go on behind it",
				"%s: the newest sample is %s in the future", service, age(old))
		case old > longest && expected && text == never:
			f.warn(late, "%s: no sample, while the lease is held", service)
		case old > longest && expected:
			f.warn(late, "%s: the newest sample is %s old, while the lease is held", service, text)
		default:
			ages = append(ages, service+" "+text)
		}
	}
	// One series of a service that goes on may stand still alone.
	for _, r := range rows {
		if fresh := newest[r.Service]; expected && now.Sub(fresh) <= longest && now.Sub(r.Newest) > longest {
			text := "there is none"
			if r.Newest.Unix() > 0 {
				text = "the newest is " + age(now.Sub(r.Newest)) + " old"
			}
			f.warn("see row security, tables and privileges above, and the worker's log", "%s of %s: %s, while others go on", r.MetricName, r.Service, text)
		}
	}
	if len(ages) > 0 {
		f.note("age of the newest: %s", strings.Join(ages, ", "))
	}
	return nil
}

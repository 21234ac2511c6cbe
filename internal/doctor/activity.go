package doctor

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/probe"
	"ops_worker/internal/schema"
)

// leaseState is who collects; exists is false where nobody ever has.
type leaseState struct {
	db.ReadLeaseRow
	exists bool
}

func readLease(ctx context.Context, q *db.Queries) (leaseState, error) {
	row, err := q.ReadLease(ctx, db.LeaseName)
	if db.IsNoRows(err) {
		return leaseState{}, nil
	}
	return leaseState{ReadLeaseRow: row, exists: err == nil}, err
}

func (r *run) holder(ctx context.Context) (leaseState, error) {
	if err := r.require(ctx, schema.LeaseTable); err != nil {
		return leaseState{}, err
	}
	return r.lease.get(func() (state leaseState, err error) {
		err = r.read(ctx, func(q *db.Queries) error {
			state, err = readLease(ctx, q)
			return err
		})
		return state, err
	})
}

// holderIfAny is holder for a check that goes on where there is no lease yet.
func (r *run) holderIfAny(ctx context.Context) (leaseState, error) {
	lease, err := r.holder(ctx)
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

// metricsInterval is how often cycles come: by the lease's word, which is the
// worker's own, and else by the settings here.
func (r *run) metricsInterval(ctx context.Context) (time.Duration, error) {
	lease, err := r.holderIfAny(ctx)
	if err != nil || !lease.exists || lease.CycleSeconds <= 0 {
		return r.cfg.MetricsInterval, err
	}
	return seconds(lease.CycleSeconds), nil
}

// startNeeds are the checks without which no worker can collect.
var startNeeds = []string{"role", "privileges", "row security", "schema", "tables"}

func checkLease(ctx context.Context, r *run, f *findings) error {
	lease, err := r.holder(ctx)
	if err != nil {
		return err
	}
	interval, err := r.metricsInterval(ctx)
	if err != nil {
		return err
	}
	start := "start the worker, unless something else is to collect"
	blocking := slices.DeleteFunc(slices.Clone(r.failed), func(check string) bool { return !slices.Contains(startNeeds, check) })
	if len(blocking) > 0 {
		start = "mend what has failed above (" + strings.Join(blocking, ", ") + "), and start the worker"
	}
	switch {
	case !lease.exists:
		f.warn(start, "free: no ops-worker has ever collected here")
	case lease.FromTheFuture:
		f.fail("start a worker, which takes it, or: UPDATE ops_worker_lease SET expires_at = now(); and check the database's clock",
			"%s holds it for %s more, which is longer than a lease lasts: a clock was wrong, or somebody wrote there", cmp.Or(lease.Holder, "nobody"), age(lease.ExpiresAt.Sub(lease.Now)))
	case !lease.Held:
		ended := "held it"
		if lease.Holder == "" {
			ended = "handed it back"
		}
		f.warn(start, "free: %s %s (epoch %d) %s ago", cmp.Or(lease.Holder, lease.LastHolder, "nobody"), ended, lease.Epoch, age(lease.Now.Sub(lease.ExpiresAt)))
	default:
		f.note("%s collects since %s (epoch %d, %s ago); the lease runs %s more unless renewed", lease.Holder,
			lease.AcquiredAt.UTC().Format(time.DateTime), lease.Epoch, age(lease.held()), age(lease.ExpiresAt.Sub(lease.Now)))
		if interval != r.cfg.MetricsInterval {
			f.note("it collects every %s; METRICS_COLLECTION_INTERVAL is %s here", age(interval), age(r.cfg.MetricsInterval))
		}
		silent := lease.Now.Sub(lease.LastCycleAt)
		if longest := patience * interval; silent > longest && lease.held() > longest {
			f.warn("see its log", "it has stored no metrics cycle for %s", since(lease.LastCycleAt, lease.Now))
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

// series is one that a worker with these settings writes, unless its service is
// silent: then it has no counters.
type series struct {
	service, metric string
	silent          bool
	every           time.Duration // 0 is in every cycle
}

// expectedSeries are what the services report and what the aggregates yield now.
func (r *run) expectedSeries(ctx context.Context) ([]series, error) {
	return r.expected.get(func() ([]series, error) {
		observations, err := r.observations(ctx)
		if err != nil {
			return nil, err
		}
		var list []series
		for i, t := range r.targets {
			if t.Kind != config.ProbeCounters && t.Kind != config.ProbeDatabase {
				continue
			}
			list = append(list, series{service: t.Name, metric: config.HealthSample})
			for _, counter := range t.Counters {
				list = append(list, series{service: t.Name, metric: counter.Name, silent: observations[i].Status != probe.Healthy || len(r.mixed.of(t.Name)) > 0})
			}
		}
		counts, err := r.counts(ctx)
		if err != nil {
			return nil, err
		}
		for _, c := range counts {
			for _, row := range c.rows {
				s := series{service: row.Service, metric: row.MetricName, every: c.every}
				if !slices.Contains(list, s) { // of several rows of other tags
					list = append(list, s)
				}
			}
		}
		return list, nil
	})
}

// columns lays series out as the queries take them.
func columns(list []series) (services, metrics []string) {
	for _, s := range list {
		services, metrics = append(services, s.service), append(metrics, s.metric)
	}
	return services, metrics
}

// futureSlack is how far ahead of the database's clock a sample may be before
// it is called one from the future: the worker goes by its last reading of it.
const futureSlack = 2 * time.Second

func checkSamples(ctx context.Context, r *run, f *findings) error {
	if err := r.require(ctx, "system_metrics"); err != nil {
		return err
	}
	lease, err := r.holderIfAny(ctx)
	if err != nil {
		return err
	}
	expected, err := r.expectedSeries(ctx)
	if err != nil {
		return err
	}
	expected = slices.DeleteFunc(slices.Clone(expected), func(s series) bool { return s.silent })
	services, metrics := columns(expected)
	var now time.Time
	var rows []db.DoctorNewestSamplesRow
	if err := r.read(ctx, func(q *db.Queries) (err error) {
		if now, err = q.Now(ctx); err != nil {
			return err
		}
		rows, err = q.DoctorNewestSamples(ctx, db.DoctorNewestSamplesParams{Services: services, MetricNames: metrics})
		return err
	}); err != nil {
		return err
	}
	interval, err := r.metricsInterval(ctx)
	if err != nil {
		return err
	}
	longest := patience * interval
	s := samples{rows: rows, now: now, held: lease.held(), longest: map[string]time.Duration{}, newest: map[string]time.Time{}}
	every := map[[2]string]time.Duration{}
	for _, e := range expected {
		every[[2]string{e.service, e.metric}] = e.every
	}
	for _, row := range rows {
		// Numbers of a large table have a pace of their own.
		s.patience = append(s.patience, max(longest, patience*every[[2]string{row.Service, row.MetricName}]))
	}
	for i, row := range rows {
		if row.Newest.After(s.newest[row.Service]) {
			s.newest[row.Service] = row.Newest
		}
		if known := s.longest[row.Service]; known == 0 || s.patience[i] < known {
			s.longest[row.Service] = s.patience[i]
		}
	}
	s.judgeServices(f, services)
	s.judgeSeries(f)
	return nil
}

// samples are the newest of each series and of each service.
type samples struct {
	rows     []db.DoctorNewestSamplesRow
	patience []time.Duration          // of each: how long may pass between two
	newest   map[string]time.Time     // by service
	longest  map[string]time.Duration // the shortest patience, by service
	now      time.Time
	held     time.Duration // how long somebody has collected
}

// judgeServices looks at the newest sample of each service.
func (s samples) judgeServices(f *findings, services []string) {
	const late = "see the worker's log for why; the services must be set here as for the worker"
	const never = "no sample yet"
	var ages []string
	judged := map[string]bool{}
	for _, service := range services {
		if judged[service] {
			continue
		}
		judged[service] = true
		at := s.newest[service]
		text := never
		if at.Unix() > 0 {
			text = age(s.now.Sub(at))
		}
		switch old := s.now.Sub(at); {
		case -old > futureSlack:
			f.warn("check the database's clock; a chart that ends now does not show the sample, and the worker's own go on behind it",
				"%s: the newest sample is %s in the future", service, age(old))
		case old > s.longest[service] && s.held > s.longest[service] && text == never:
			f.warn(late, "%s: no sample, while the lease is held", service)
		case old > s.longest[service] && s.held > s.longest[service]:
			f.warn(late, "%s: the newest sample is %s old, while the lease is held", service, text)
		default:
			ages = append(ages, service+" "+text)
		}
	}
	if len(ages) > 0 {
		f.note("age of the newest: %s", strings.Join(ages, ", "))
	}
}

// judgeSeries looks for a series that stands still alone, of a service that goes
// on.
func (s samples) judgeSeries(f *findings) {
	for i, row := range s.rows {
		if s.held <= s.patience[i] || s.now.Sub(s.newest[row.Service]) > s.longest[row.Service] || s.now.Sub(row.Newest) <= s.patience[i] {
			continue
		}
		text := "there is none"
		if row.Newest.Unix() > 0 {
			text = "the newest is " + age(s.now.Sub(row.Newest)) + " old"
		}
		f.warn("see row security, tables and privileges above, and the worker's log", "%s of %s: %s, while others go on", row.MetricName, row.Service, text)
	}
}

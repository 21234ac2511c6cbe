package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ops_worker/collectors"
	"ops_worker/db"
)

// leaseName is the row of the lease table that the worker's replicas share.
const leaseName = "ops_worker"

// probe asks every service at once, each for at most timeout.
func probe(ctx context.Context, services []collectors.Service, timeout time.Duration) []collectors.Observation {
	observations := make([]collectors.Observation, len(services))
	var probing sync.WaitGroup
	for i, s := range services {
		probing.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			observations[i] = collectors.Observation{Service: s.Name, Reading: s.Probe(ctx)}
		})
	}
	probing.Wait()
	return observations
}

func checkServices(ctx context.Context, x *examination, f *findings) error {
	var observations []collectors.Observation
	select {
	case observations = <-x.probed:
	case <-ctx.Done():
		return ctx.Err()
	}
	for i, o := range observations {
		service := x.services[i]
		advice := fmt.Sprintf("start %s, or correct %s", o.Service, variableOf(o.Service))
		if o.Service == "postgres" {
			advice = "see connection"
		}
		switch o.Status {
		case collectors.Healthy:
			counters := ""
			if len(service.Counters) > 0 {
				var missing []string
				for _, name := range service.Counters {
					if _, ok := o.Counters[name]; !ok {
						missing = append(missing, name)
					}
				}
				if len(missing) > 0 {
					counters = "; it does not report " + strings.Join(missing, ", ") + ", stored as 0"
				}
			}
			f.note("%s: healthy, %s%s", o.Service, latency(o.Latency), counters)
		case collectors.Degraded:
			f.warn(fmt.Sprintf("see the log of %s", o.Service), "%s: degraded, %s, %s", o.Service, o.Reason(), latency(o.Latency))
		default:
			f.fail(advice, "%s: %s, %s", o.Service, o.Status, oneLine(o.Reason()))
		}
	}
	return nil
}

// monitors reports whether the settings name a service.
func (x *examination) monitors(service string) bool {
	return slices.ContainsFunc(x.services, func(s collectors.Service) bool { return s.Name == service })
}

// leaseState is who collects; exists is false where nobody ever has.
type leaseState struct {
	db.ReadLeaseRow
	exists bool
}

func readLease(ctx context.Context, q *db.Queries) (leaseState, error) {
	row, err := q.ReadLease(ctx, leaseName)
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

func checkHealthRows(ctx context.Context, x *examination, f *findings) error {
	if err := x.require(ctx, "service_health"); err != nil {
		return err
	}
	lease, err := x.holderIfAny(ctx)
	if err != nil {
		return err
	}
	var rows []db.DoctorHealthRowsRow
	if err := x.read(ctx, func(q *db.Queries) (err error) {
		rows, err = q.DoctorHealthRows(ctx)
		return err
	}); err != nil {
		return err
	}

	longest := patience * x.cfg.HealthInterval
	expected := lease.held() > longest
	current := map[string]bool{}
	var oldest time.Duration
	for _, r := range rows {
		old := r.Now.Sub(r.CheckedAt)
		if !x.monitors(r.Service) {
			f.warn(fmt.Sprintf("set %s, or DELETE FROM service_health WHERE service = %s;", variableOf(r.Service), literal(r.Service)),
				"%s (%s) is not monitored, and was checked %s ago for the last time", r.Service, r.Status, age(old))
			continue
		}
		current[r.Service] = true
		oldest = max(oldest, old)
		if expected && old > longest {
			f.warn("see the worker's log for why; HEALTH_CHECK_INTERVAL must be set here as for the worker",
				"%s was checked %s ago, while the lease is held", r.Service, age(old))
		}
	}
	for _, s := range x.services {
		if expected && !current[s.Name] {
			f.warn("see the worker's log for why; the services must be set here as for the worker", "%s has no row, while the lease is held", s.Name)
		}
	}
	if f.result == OK {
		if len(rows) == 0 {
			f.note("none yet")
		} else {
			f.note("%d services, all checked within %s", len(current), age(oldest))
		}
	}
	return nil
}

func checkSystemAlerts(ctx context.Context, x *examination, f *findings) error {
	if err := x.require(ctx, "fleet_alert"); err != nil {
		return err
	}
	var alerts []db.DoctorOpenAlertsRow
	var now time.Time
	err := x.read(ctx, func(q *db.Queries) (err error) {
		if now, err = q.Now(ctx); err != nil {
			return err
		}
		if _, err = q.EnterPlatformScope(ctx); err != nil {
			return err
		}
		alerts, err = q.DoctorOpenAlerts(ctx)
		return err
	})
	if err != nil {
		return err
	}
	open := map[string]int{}
	for _, a := range alerts {
		if open[a.Service]++; open[a.Service] > 1 {
			f.warn(closeAlert(a.Service), "%s has %d open system alerts", a.Service, open[a.Service])
		}
		switch text := fmt.Sprintf("%s: %s for %s", a.Service, strings.ToLower(a.Status), age(now.Sub(a.CreatedAt))); {
		case !x.monitors(a.Service):
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: the service is not monitored", text)
		case !x.cfg.SystemAlerts:
			f.warn(closeAlert(a.Service), "%s, and nothing closes it: SYSTEM_ALERT_ENABLED is off", text)
		default:
			f.note("%s; closed when the service is healthy again", text)
		}
	}
	if len(alerts) == 0 {
		f.note("none is open")
	}
	return nil
}

func closeAlert(service string) string {
	return fmt.Sprintf("UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() WHERE tenant_id = '__system__' "+
		"AND fingerprint = %s AND status <> 'CLOSED';", literal("system-health:"+service))
}

// literal is a text as SQL has it.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

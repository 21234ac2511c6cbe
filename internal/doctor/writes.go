package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/schema"
)

// trial names the lease, the service and the alert that doctor writes: its own, so
// that it locks no row which a worker needs.
type trial string

// writes is the table of what the worker writes.
var writes = []struct {
	name string
	try  func(t trial, ctx context.Context, q *db.Queries) error
	off  func(config.Config) bool // by the settings; nil is never
}{
	{name: "the lease", try: trial.lease},
	{name: "the samples", try: trial.samples},
	{name: "the health rows", try: trial.healthRows},
	{name: "the counts of checks", try: trial.checks},
	{name: "system alerts", try: trial.systemAlerts, off: func(c config.Config) bool { return !c.SystemAlerts }},
	{name: "how long services were watched", try: trial.watch, off: func(c config.Config) bool { return !c.SystemAlerts }},
	{name: "messages about alerts", try: trial.messages, off: func(c config.Config) bool { return !c.SystemAlerts || c.AlertWebhookURL == "" }},
	{name: "retention", try: trial.retention, off: func(c config.Config) bool { return c.MetricsRetention == 0 }},
}

// checkWrites does all that the worker writes, each in a transaction of its own, and
// rolls it back.
func checkWrites(ctx context.Context, r *run, f *findings) error {
	if r.connection.server.Standby {
		return skip("nothing can be written to a standby")
	}
	// Two doctors must not wait for each other.
	t := trial(fmt.Sprintf("%s_%d", applicationName(r.cfg), time.Now().UnixNano()))
	var refused refusals
	var done []string
	for _, w := range writes {
		if w.off != nil && w.off(r.cfg) {
			continue
		}
		err := r.database.try(ctx, func(q *db.Queries) error { return w.try(t, ctx, q) })
		if err == nil {
			done = append(done, w.name)
		} else if err := refused.note(w.name, "", err); err != nil {
			return fmt.Errorf("try %s: %w", w.name, err)
		}
	}
	refused.report(r, f, r.grants())
	if len(done) > 0 {
		f.note("done, and rolled back: %s", strings.Join(done, ", "))
	}
	return nil
}

// acquire takes a lease that nobody else knows.
func (t trial) acquire(ctx context.Context, q *db.Queries) (grant db.AcquireLeaseRow, err error) {
	// The row begins at the newest sample that is no more than FutureSeconds ahead: so the
	// trial's own sample, a millisecond from now, is later.
	if err := q.CreateLease(ctx, db.CreateLeaseParams{Name: string(t), FutureSeconds: 0}); err != nil {
		return grant, err
	}
	if _, err := q.LockLease(ctx, string(t)); err != nil {
		return grant, err
	}
	return q.AcquireLease(ctx, db.AcquireLeaseParams{Name: string(t), Holder: string(t), TtlSeconds: time.Minute.Seconds()})
}

func (t trial) lease(ctx context.Context, q *db.Queries) error {
	_, err := t.acquire(ctx, q)
	return err
}

func (t trial) samples(ctx context.Context, q *db.Queries) error {
	grant, err := t.acquire(ctx, q)
	if err != nil {
		return err
	}
	_, err = q.AppendSamples(ctx, db.AppendSamplesParams{
		LeaseName: string(t), Holder: string(t), Epoch: grant.Epoch, TtlSeconds: time.Minute.Seconds(), FutureSeconds: lease.FutureLimit.Seconds(), Recheck: true,
		CycleAt: grant.Now, Times: []time.Time{grant.Now.Add(time.Millisecond)}, MetricNames: []string{config.HealthSample},
		Services: []string{string(t)}, Tags: []string{"{}"}, Values: []float64{1},
	})
	return err
}

func (t trial) healthRows(ctx context.Context, q *db.Queries) error {
	_, err := q.UpsertServiceHealth(ctx, db.UpsertServiceHealthParams{
		CheckedAt: time.Now(), Services: []string{string(t), string(t) + "_2"}, Statuses: []string{"healthy", "unhealthy"},
		LatenciesMs: []int32{1, -1}, Details: []string{`{"status": "healthy"}`, `{"status": "down"}`},
	})
	return err
}

func (t trial) checks(ctx context.Context, q *db.Queries) error {
	return q.SaveStreaks(ctx, db.SaveStreaksParams{CheckedAt: time.Now(), Services: []string{string(t)}, Healthy: []bool{true}, Since: []time.Time{time.Now()}, Checks: []int32{1}})
}

// watch notes down that a service was watched.
func (t trial) watch(ctx context.Context, q *db.Queries) error {
	if err := q.ForgetWatch(ctx); err != nil {
		return err
	}
	return q.NoteWatch(ctx, db.NoteWatchParams{Services: []string{string(t)}, BeganAt: time.Now(), CheckedAt: time.Now()})
}

// messages notes down a message, and that it was told.
func (t trial) messages(ctx context.Context, q *db.Queries) error {
	if err := q.TrackMessages(ctx, db.TrackMessagesParams{Fingerprints: []string{string(t)}, OpenedAts: []time.Time{time.Now()}}); err != nil {
		return err
	}
	if err := q.MarkTold(ctx, db.MarkToldParams{Fingerprints: []string{string(t)}, OpenedAts: []time.Time{time.Now()}, Closings: []bool{true}}); err != nil {
		return err
	}
	if _, err := q.EnterPlatformScope(ctx); err != nil {
		return err
	}
	_, err := q.DueMessages(ctx)
	return err
}

// systemAlerts opens an alert and closes it.
func (t trial) systemAlerts(ctx context.Context, q *db.Queries) error {
	if _, err := q.EnterPlatformScope(ctx); err != nil {
		return err
	}
	now := time.Now()
	if _, err := q.OpenSystemAlert(ctx, db.OpenSystemAlertParams{Fingerprint: string(t), OpenedAt: now, Summary: "trial", Details: "{}"}); err != nil {
		return err
	}
	_, err := q.CloseSystemAlert(ctx, db.CloseSystemAlertParams{Fingerprint: string(t), OpenedAt: now, ClosedAt: now, Summary: "trial", Details: "{}"})
	return err
}

// retention removes what is older than any sample.
func (trial) retention(ctx context.Context, q *db.Queries) error {
	expirer, err := schema.FindExpirer(ctx, q)
	if err != nil {
		return err
	}
	_, _, err = expirer.Expire(ctx, q, time.Unix(0, 0), 1)
	return err
}

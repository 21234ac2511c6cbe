package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

// timescale is TimescaleDB, and what it does with system_metrics: nil where that
// is no hypertable.
type timescale struct {
	version string
	*schema.Hypertable
}

// extension is what TimescaleDB says, nil on plain PostgreSQL.
func (r *run) extension(ctx context.Context) (*timescale, error) {
	return r.timescale.get(func() (t *timescale, err error) {
		err = r.read(ctx, func(q *db.Queries) error {
			found, err := schema.FindTimescale(ctx, q)
			if found == nil || err != nil {
				return err
			}
			hypertable, err := found.Describe(ctx, q)
			t = &timescale{found.Version, hypertable}
			return err
		})
		return t, err
	})
}

func (t *timescale) chunk() time.Duration {
	return seconds(t.ChunkSeconds)
}

// retention is what a policy keeps; 0 without a policy.
func (t *timescale) retention() time.Duration {
	for _, job := range t.Jobs {
		if job.Name == "policy_retention" && job.DropSeconds != nil {
			return seconds(*job.DropSeconds)
		}
	}
	return 0
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func checkTimescale(ctx context.Context, r *run, f *findings) error {
	t, err := r.extension(ctx)
	if err != nil {
		return err
	}
	if t == nil {
		f.note("not installed: system_metrics is a plain table, and the worker expires its samples")
		return r.read(ctx, func(q *db.Queries) error {
			available, err := q.TimescaleAvailable(ctx)
			if available {
				f.note("the server has it: a start before the platform's migrator makes the extension, or waits for whoever may")
			}
			return err
		})
	}
	f.note("TimescaleDB %s", t.version)
	if t.Hypertable == nil {
		f.warn("an empty table the next start converts; one with rows, as its owner, is locked for some seconds for every 100 MB: "+
			"SELECT create_hypertable('system_metrics', 'time', chunk_time_interval => interval '1 hour', migrate_data => true);",
			"system_metrics is no hypertable")
		return nil
	}
	f.note("system_metrics is a hypertable in chunks of %s", age(t.chunk()))
	if t.chunk() > 24*time.Hour {
		f.warn("SELECT set_chunk_time_interval('system_metrics', interval '1 hour');",
			"samples are dropped a whole chunk at a time, so they stay up to %s longer than they are kept", age(t.chunk()))
	}
	compressed := false
	for _, job := range t.Jobs {
		if !job.Scheduled {
			f.warn(fmt.Sprintf("SELECT alter_job(%d, scheduled => true);", job.ID), "the job %s of system_metrics is not scheduled", job.Name)
		}
		if job.CompressAfter != nil {
			compressed = true
			f.note("compressed after %s", *job.CompressAfter)
		}
	}
	if !compressed {
		f.note("no compression policy (the platform's migrator makes one)")
	}
	switch kept := t.retention(); {
	case kept == 0 && r.cfg.MetricsRetention == 0:
		f.note("no retention policy, and METRICS_RETENTION is 0: samples are kept for ever")
	case kept == 0:
		f.note("no retention policy: the worker drops chunks older than %s", age(r.cfg.MetricsRetention))
	case kept == r.cfg.MetricsRetention:
		f.note("retention policy: dropped after %s, as METRICS_RETENTION", age(kept))
	default:
		f.note("retention policy: dropped after %s; METRICS_RETENTION is another, and not used", age(kept))
	}
	if len(t.Aggregates) > 0 {
		f.note("continuous aggregates: %s", strings.Join(t.Aggregates, ", "))
	} else {
		f.note("no continuous aggregate (the platform's migrator makes one)")
	}
	return nil
}

// How much longer than they are kept samples may stand before something must be
// wrong: a policy of TimescaleDB runs once a day, the worker once an hour.
const (
	policySlack = 48 * time.Hour
	workerSlack = 3 * time.Hour
)

// leastSpan is of the samples by which growth is told.
const leastSpan = time.Minute

// extent is what system_metrics holds.
type extent struct {
	bytes, rows float64 // rows are an estimate, 0 before the first
	oldest      time.Time
	window      time.Duration
	points      int64 // of the window
	now         time.Time
}

// The growth is measured in so many intervals, within these bounds.
const (
	windowIntervals = 120
	minWindow       = time.Minute
	maxWindow       = time.Hour
)

// seriesParams asks for every point in that window of the series of every cycle. Of
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
	window := min(max(windowIntervals*interval, minWindow), maxWindow)
	return db.DoctorSeriesParams{MetricNames: slices.Compact(metrics), WindowSeconds: window.Seconds()}, nil
}

func (r *run) extent(ctx context.Context, t *timescale, f *findings) (e extent, err error) {
	params, err := r.seriesParams(ctx)
	if err != nil {
		return e, err
	}
	e.window = seconds(params.WindowSeconds)
	err = r.read(ctx, func(q *db.Queries) error {
		if e.now, err = q.Now(ctx); err != nil {
			return err
		}
		series, err := q.DoctorSeries(ctx, params)
		if err != nil {
			return err
		}
		for _, s := range series {
			e.points += s.Points
		}
		if t != nil && t.Hypertable != nil {
			e.bytes, e.rows = t.Bytes, t.Rows
			if t.Oldest != nil {
				e.oldest = *t.Oldest
			}
			return nil
		}
		size, err := q.SamplesSize(ctx)
		if err != nil {
			return err
		}
		e.bytes, e.rows = float64(size.Bytes), size.EstimatedRows
		if e.oldest, err = q.DoctorOldestSample(ctx); db.IsNoRows(err) {
			return nil
		}
		return err
	})
	return e, err
}

// retention is how long samples stand, how much longer they may before something
// must be wrong, and what to look at then.
func (r *run) retention(t *timescale) (keep, slack time.Duration, advice string) {
	switch {
	case t == nil || t.Hypertable == nil:
		return r.cfg.MetricsRetention, workerSlack,
			"see the log of the worker that holds the lease for why it does not expire them; it needs DELETE on system_metrics"
	case t.retention() > 0:
		return t.retention(), policySlack + t.chunk(), "see timescaledb_information.job_stats for why the retention policy does not run"
	}
	return r.cfg.MetricsRetention, workerSlack + t.chunk(),
		"see the log of the worker that holds the lease for why it does not drop chunks; it must own the table"
}

func checkSize(ctx context.Context, r *run, f *findings) error {
	if err := r.require(ctx, "system_metrics"); err != nil {
		return err
	}
	t, err := r.extension(ctx)
	if err != nil {
		return err
	}
	e, err := r.extent(ctx, t, f)
	if err != nil {
		return err
	}
	keep, slack, advice := r.retention(t)
	count := "rows not counted yet (never analysed)"
	if e.rows > 0 {
		count = "about " + quantity(e.rows) + " rows"
	}
	if e.oldest.IsZero() {
		f.note("%s, empty", megabytes(e.bytes))
		return nil
	}
	f.note("%s, %s, the oldest sample is %s old", megabytes(e.bytes), count, age(e.now.Sub(e.oldest)))
	span := min(e.window, e.now.Sub(e.oldest))
	switch perDay := float64(e.points) / span.Hours() * 24; {
	case e.points == 0:
		f.note("no sample in the last %s", age(e.window))
	case span < leastSpan:
	case keep > 0:
		f.note("grows by about %s rows a day (by the last %s); kept for %s, that is %s rows", quantity(perDay), age(span), age(keep), quantity(perDay*keep.Hours()/24))
	default:
		f.note("grows by about %s rows a day (by the last %s)", quantity(perDay), age(span))
	}
	if keep > 0 && e.now.Sub(e.oldest) > keep+slack {
		f.warn(advice, "samples older than the %s that they are kept for still stand", age(keep))
	}
	return nil
}

// quantity is a large number for people.
func quantity(n float64) string {
	switch {
	case n < 1e4:
		return fmt.Sprintf("%.0f", n)
	case n < 1e6:
		return fmt.Sprintf("%.0f thousand", n/1e3)
	}
	return fmt.Sprintf("%.1f million", n/1e6)
}

func megabytes(bytes float64) string { return fmt.Sprintf("%.1f MB", bytes/1e6) }

package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ops_worker/db"
)

// timescale is what TimescaleDB does with system_metrics. What it was not asked
// for, or does not do, is nil.
type timescale struct {
	Version      string   `json:"-"`
	Hypertable   bool     `json:"hypertable"`
	Bytes        *float64 `json:"bytes"`
	Rows         *float64 `json:"rows"`
	ChunkSeconds *float64 `json:"chunk_seconds"`
	// Oldest is where the oldest chunk begins.
	Oldest *time.Time `json:"oldest"`
	Jobs   []struct {
		ID            int64    `json:"id"`
		Name          string   `json:"name"`
		Scheduled     bool     `json:"scheduled"`
		DropSeconds   *float64 `json:"drop_seconds"`
		CompressAfter *string  `json:"compress_after"`
	} `json:"jobs"`
	Aggregates []string `json:"aggregates"`
}

// extension is what TimescaleDB says, nil on plain PostgreSQL.
func (x *examination) extension(ctx context.Context) (*timescale, error) {
	return x.timescale.get(ctx, x, func(ctx context.Context, q *db.Queries) (*timescale, error) {
		row, err := q.DoctorTimescale(ctx)
		if db.IsNoRows(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		t := &timescale{Version: row.Version}
		return t, answerOf(row.Answer, t)
	})
}

func (t *timescale) chunk() time.Duration {
	if t == nil || t.ChunkSeconds == nil {
		return 0
	}
	return seconds(*t.ChunkSeconds)
}

// retention is what a policy keeps; 0 where there is none.
func (t *timescale) retention() time.Duration {
	for _, job := range t.Jobs {
		if job.Name == "policy_retention" && job.DropSeconds != nil {
			return seconds(*job.DropSeconds)
		}
	}
	return 0
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func checkTimescale(ctx context.Context, x *examination, f *findings) error {
	t, err := x.extension(ctx)
	if err != nil {
		return err
	}
	if t == nil {
		f.note("not installed: system_metrics is a plain table, and the worker expires its samples")
		return nil
	}
	f.note("TimescaleDB %s", t.Version)
	if !t.Hypertable {
		f.warn("restart the worker, or `ops-worker migrate up`, as the table's owner: it converts the table",
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
	case kept == 0 && x.cfg.MetricsRetention == 0:
		f.note("no retention policy, and METRICS_RETENTION is 0: samples are kept for ever")
	case kept == 0:
		f.note("no retention policy: the worker drops chunks older than %s", age(x.cfg.MetricsRetention))
	case kept == x.cfg.MetricsRetention:
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

func checkSize(ctx context.Context, x *examination, f *findings) error {
	if err := x.require(ctx, "system_metrics"); err != nil {
		return err
	}
	t, err := x.extension(ctx)
	if err != nil {
		return err
	}
	hypertable := t != nil && t.Hypertable
	var bytes, rows float64
	var oldest time.Time
	var series []db.DoctorSeriesRow
	var now time.Time
	err = x.read(ctx, func(q *db.Queries) error {
		if now, err = q.Now(ctx); err != nil {
			return err
		}
		if series, err = q.DoctorSeries(ctx, x.seriesParams()); err != nil {
			return err
		}
		if hypertable {
			return nil
		}
		size, err := q.DoctorSize(ctx)
		if err != nil {
			return err
		}
		bytes, rows = float64(size.Bytes), size.EstimatedRows
		if oldest, err = q.DoctorOldestSample(ctx); db.IsNoRows(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	keep, slack := x.cfg.MetricsRetention, workerSlack
	advice := "see the log of the worker that holds the lease for why it does not expire them; it needs DELETE on system_metrics"
	if hypertable {
		bytes, rows = value(t.Bytes), value(t.Rows)
		if t.Oldest != nil {
			oldest = *t.Oldest
		}
		slack += t.chunk()
		advice = "see the log of the worker that holds the lease for why it does not drop chunks; it must own the table"
		if kept := t.retention(); kept > 0 {
			keep, slack = kept, policySlack+t.chunk()
			advice = "see timescaledb_information.job_stats for why the retention policy does not run"
		}
	}

	count := "rows not counted yet (never analysed)"
	if rows > 0 {
		count = "about " + quantity(rows) + " rows"
	}
	if oldest.IsZero() {
		f.note("%s, empty", megabytes(bytes))
		return nil
	}
	f.note("%s, %s, the oldest sample is %s old", megabytes(bytes), count, age(now.Sub(oldest)))
	var points int64
	for _, s := range series {
		points += s.Points
	}
	span := max(min(x.window(), now.Sub(oldest)), time.Second)
	perDay := float64(points) / span.Hours() * 24
	growth := fmt.Sprintf("grows by about %s rows a day (by the last %s)", quantity(perDay), age(span))
	if keep > 0 {
		growth += fmt.Sprintf("; kept for %s, that is %s rows", age(keep), quantity(perDay*keep.Hours()/24))
	}
	if points == 0 {
		growth = "no sample in the last " + age(x.window())
	}
	f.note("%s", growth)
	if keep > 0 && now.Sub(oldest) > keep+slack {
		f.warn(advice, "samples older than the %s that they are kept for still stand", age(keep))
	}
	return nil
}

func value(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
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

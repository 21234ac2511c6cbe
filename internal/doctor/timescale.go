package doctor

import (
	"context"
	"fmt"
	"time"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

func checkTimescale(ctx context.Context, r *run, f *findings) error {
	var extension *schema.Timescale
	var table *schema.Hypertable
	available := false
	err := r.database.read(ctx, func(q *db.Queries) (err error) {
		if extension, err = schema.FindTimescale(ctx, q); err != nil {
			return err
		}
		if extension == nil {
			available, err = q.TimescaleAvailable(ctx)
			return err
		}
		table, err = extension.Describe(ctx, q)
		return err
	})
	switch {
	case err != nil:
		return err
	case available:
		f.note("not installed, but the server has it: a start before the platform's migrator makes the extension, or waits for whoever may")
	case extension == nil:
		f.note("not installed: system_metrics is a plain table, and the worker expires its samples")
	case table == nil:
		f.note("TimescaleDB %s", extension.Version)
		f.warn("an empty table the next start converts; one with rows, as its owner, is locked for some seconds for every 100 MB: "+
			"SELECT create_hypertable('system_metrics', 'time', chunk_time_interval => interval '1 hour', migrate_data => true);",
			"system_metrics is no hypertable")
	default:
		f.note("TimescaleDB %s; system_metrics is a hypertable in chunks of %s", extension.Version, age(seconds(table.ChunkSeconds)))
		r.judgeHypertable(f, table)
	}
	return nil
}

// judgeHypertable looks at what TimescaleDB does with the samples.
func (r *run) judgeHypertable(f *findings, table *schema.Hypertable) {
	if chunk := seconds(table.ChunkSeconds); chunk > 24*time.Hour {
		f.warn("SELECT set_chunk_time_interval('system_metrics', interval '1 hour');",
			"samples are dropped a whole chunk at a time, so they stay up to %s longer than they are kept", age(chunk))
	}
	compressed, dropped := "never", time.Duration(0)
	for _, job := range table.Jobs {
		if !job.Scheduled {
			f.warn(fmt.Sprintf("SELECT alter_job(%d, scheduled => true);", job.ID), "the job %s of system_metrics is not scheduled", job.Name)
		}
		if job.CompressAfter != nil {
			compressed = "after " + *job.CompressAfter
		}
		if job.DropSeconds != nil {
			dropped = seconds(*job.DropSeconds)
		}
	}
	switch kept := r.cfg.MetricsRetention; {
	case dropped == 0 && kept == 0:
		f.note("compressed %s; no retention policy, and METRICS_RETENTION is 0: samples are kept for ever", compressed)
	case dropped == 0:
		f.note("compressed %s; no retention policy: the worker drops chunks older than %s, which takes the table's owner", compressed, age(kept))
	case dropped != kept:
		f.note("compressed %s; dropped after %s by a policy; METRICS_RETENTION is another, and not used", compressed, age(dropped))
	default:
		f.note("compressed %s; dropped after %s by a policy, as METRICS_RETENTION", compressed, age(dropped))
	}
}

package doctor

import (
	"context"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

func checkTimescale(ctx context.Context, r *run, f *findings) error {
	var extension *schema.Timescale
	var expirer schema.Expirer
	available := false
	err := r.database.read(ctx, func(q *db.Queries) (err error) {
		if extension, err = schema.FindTimescale(ctx, q); err != nil {
			return err
		}
		if available, err = q.TimescaleAvailable(ctx); err != nil {
			return err
		}
		expirer, err = schema.FindExpirer(ctx, q)
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case extension != nil && !expirer.Hypertable():
		f.warn("an empty table the next start converts; one with rows, as its owner, is locked for some seconds for every 100 MB: "+
			"SELECT create_hypertable('system_metrics', 'time', chunk_time_interval => interval '1 hour', migrate_data => true);",
			"TimescaleDB %s, and system_metrics is no hypertable", extension.Version)
	case extension != nil:
		f.note("TimescaleDB %s", extension.Version)
	case available:
		f.note("not installed, but the server has it: a start before the platform's migrator makes the extension, or waits for whoever may")
	default:
		f.note("not installed")
	}
	f.note("system_metrics is %s", expirer)
	return nil
}

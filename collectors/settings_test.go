package collectors

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/spool"
)

// hostile are settings of a database, a role or a pooler that change how values
// are written, or what a transaction may.
var hostile = map[string]string{
	"datestyle":                     "'German, DMY'",
	"intervalstyle":                 "sql_standard",
	"extra_float_digits":            "-10",
	"timezone":                      "'Asia/Kathmandu'",
	"client_encoding":               "latin1",
	"default_transaction_isolation": "serializable",
	"row_security":                  "off",
	"standard_conforming_strings":   "off",
}

func TestNothingDependsOnWhatTheDatabaseSets(t *testing.T) {
	t.Parallel()
	for name, pooled := range map[string]bool{"directly": false, "through a pooler": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.NewEmpty(t)
			var alter strings.Builder // in one session, before any of them counts
			for setting, value := range hostile {
				fmt.Fprintf(&alter, "ALTER DATABASE %s SET %s = %s;", database.Name, setting, value)
			}
			database.Exec(t, alter.String())
			url := database.URL
			if pooled {
				url = pgtest.NewPgBouncer(t, database.URL, "transaction", "default_pool_size = 1").URL
			}
			cfg := workerConfig(t, url, "METRICS_COLLECTION_INTERVAL=60s")
			pool, err := db.Open(t.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName))
			if err != nil {
				t.Fatal(err)
			}
			defer pool.Close()
			worker := NewWorker(Options{Config: cfg, Pool: pool, Buffer: spool.NewMemory(10), Log: zerolog.Nop()})
			if err := worker.Prepare(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Migrations need a role that may write by default; the rest does not.
			database.Exec(t, fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = on", database.Name))
			database.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			pool.Reset()
			if _, err := worker.Lease.TryAcquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			begin := worker.Lease.Now()
			if off := time.Since(begin).Abs(); off > time.Minute {
				t.Errorf("the database's clock is read as %s", begin)
			}
			if err := errors.Join(worker.metrics.Cycle(t.Context()), worker.health.cycle(t.Context())); err != nil {
				t.Fatal(err)
			}
			const value = 0.1 + 1e-12
			at := worker.Lease.Now().UTC().Truncate(time.Microsecond)
			if _, _, err := worker.Store.AppendCycles(t.Context(), worker.Lease.Token(), []spool.Cycle{{At: at, Samples: []spool.Sample{sampleOf("x", "exact", value)}}}, false); err != nil {
				t.Fatal(err)
			}
			if _, _, err := worker.Store.ExpireSamples(t.Context(), worker.Lease.Token(), at.Add(-time.Hour), 10); err != nil {
				t.Error(err)
			}
			if err := worker.schema.cycle(t.Context()); err != nil {
				t.Error(err)
			}
			worker.Lease.Release()

			check := database.Pool(t)
			pgtest.WantRows(t, check, fmt.Sprintf("SELECT value = '%v'::float8 FROM system_metrics WHERE metric_name = 'exact'", value), "true")
			if n := pgtest.Count(t, check, fmt.Sprintf("SELECT count(*) FROM system_metrics WHERE metric_name = 'exact' AND time = to_timestamp(%d / 1e6)", at.UnixMicro())); n != 1 {
				t.Error("the time of a sample is another")
			}
		})
	}
}

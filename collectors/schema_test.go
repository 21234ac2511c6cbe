package collectors

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/logtest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
	"ops_worker/internal/spool"
)

func TestTheSchemaIsEnsuredHourlyAndSoonAfterAMissingTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := db.NewClient(nil, time.Second)
		keeper := newSchemaKeeper(client, nil)
		begin := time.Now()
		var ensured []time.Duration
		broken := false
		keeper.ensure = func(context.Context) ([]schema.Change, error) {
			ensured = append(ensured, time.Since(begin))
			if broken {
				return nil, errors.New("away")
			}
			return nil, nil
		}
		loop := &Loop{Interval: schemaInterval, FirstAfter: schemaInterval, Log: zerolog.Nop(), Cycle: func(ctx context.Context) error {
			switch time.Since(begin) {
			case 10 * time.Minute:
				client.Note(&pgconn.PgError{Code: "42P01"})
			case 20 * time.Minute:
				client.Note(&pgconn.PgError{Code: "42703"}) // a column: the worker alters no table
			}
			broken = time.Since(begin) >= 70*time.Minute && time.Since(begin) < 71*time.Minute
			return keeper.cycle(ctx)
		}}
		ticksOf(t, loop, 3*time.Hour+time.Second)
		// An hour after the run that the missing table caused; and again until it succeeds.
		want := []time.Duration{10 * time.Minute, 70 * time.Minute, 70*time.Minute + 20*time.Second, 70*time.Minute + 40*time.Second, 71 * time.Minute, 131 * time.Minute}
		if diff := cmp.Diff(want, ensured); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWhatCannotBeMadeIsLoggedOnce(t *testing.T) {
	keeper := newSchemaKeeper(db.NewClient(nil, time.Second), nil)
	var log logtest.Log
	failure := schema.Change{Object: "telemetry", Action: "failed", Detail: "permission denied"}
	for range 3 {
		keeper.log(log.Logger(), []schema.Change{failure, {Object: "alert_rules", Action: "created"}})
	}
	keeper.log(log.Logger(), nil) // mended
	keeper.log(log.Logger(), []schema.Change{failure})
	failures := 0
	for _, line := range log.Lines(t, "schema change") {
		if line["object"] == failure.Object {
			failures++
		}
	}
	if done := log.Lines(t, "schema brought up to date"); failures != 2 || len(done) != 3 || done[0]["created"] != 1.0 {
		t.Errorf("%d lines of what failed, want 2; of what was done, want 3: %v", failures, done)
	}
}

// newRelease is how a newer release of the platform replaces two tables.
const newRelease = `
	DROP TABLE integrations, delivery_jobs;
	CREATE TABLE notification_channels (channel_id serial PRIMARY KEY, tenant_id text, name text, channel_type text, config jsonb,
		is_enabled boolean, created_at timestamptz, updated_at timestamptz);
	CREATE TABLE notification_jobs (job_id bigserial PRIMARY KEY, tenant_id text, alert_id bigint, channel_id int, rule_id int, deliver_on_event text,
		status text, attempts int, next_run_at timestamptz, last_error text, payload_json jsonb, created_at timestamptz, updated_at timestamptz);
	INSERT INTO notification_jobs (channel_id, status) VALUES (1, 'PENDING'), (1, 'PENDING'), (1, 'FAILED')`

func TestARunningWorkerMakesWhatIsMissingAgain(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, database *pgtest.Database){
		"a newer release of the platform": func(t *testing.T, database *pgtest.Database) { database.Exec(t, newRelease) },
		"a table of the platform dropped": func(t *testing.T, database *pgtest.Database) { database.Exec(t, "DROP TABLE device_state") },
		"the samples dropped":             func(t *testing.T, database *pgtest.Database) { database.Exec(t, "DROP TABLE system_metrics CASCADE") },
		"four migrations taken back": func(t *testing.T, database *pgtest.Database) {
			for range 4 { // the first three of which drop no table
				migrateDown(t, database, false)
			}
		},
		"all migrations taken back": func(t *testing.T, database *pgtest.Database) { migrateDown(t, database, true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			pool := database.Pool(t)
			// Long deadlines: a machine under load is to miss nothing.
			worker := NewWorker(Options{Config: workerConfig(t, database.URL, "METRICS_COLLECTION_INTERVAL=60s"), Pool: pool, Buffer: spool.NewMemory(10), Log: zerolog.Nop()})
			if _, err := worker.Lease.TryAcquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			cycle := func() error { return errors.Join(worker.metrics.Cycle(t.Context()), worker.health.cycle(t.Context())) }
			if err := cycle(); err != nil {
				t.Fatal(err)
			}
			counted := func() (n int) { // but the checks, of which each is stored once, and the rate
				for _, s := range worker.metrics.gatherer.last.Samples {
					if s.Metric != config.LatencySample && s.Metric != "ingest_rate" {
						n++
					}
				}
				return n
			}
			whole := counted()
			spoil(t, database)
			if err := cycle(); err == nil && counted() == whole {
				t.Fatal("nothing is missing")
			}
			if err := worker.schema.cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			// Its lease may have gone with the table.
			if _, err := worker.Lease.TryAcquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			worker.metrics.storer.retryAt = time.Time{} // it was refused
			worker.metrics.gatherer.stored = stored{}   // as in another minute
			if err := cycle(); err != nil {
				t.Error(err)
			}
			if n := counted(); n != whole {
				t.Errorf("%d samples, want %d", n, whole)
			}
			if worker.client.RelationMissing() {
				t.Error("a table is still missing")
			}
			states, err := schema.Status(t.Context(), pool)
			for _, s := range states {
				if !s.Applied() {
					t.Errorf("migration %s is pending", s.Name)
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func migrateDown(t *testing.T, database *pgtest.Database, all bool) {
	t.Helper()
	_, err := schema.Down(t.Context(), database.Pool(t), schema.DownOptions{All: all, Force: true})
	if err := err; err != nil {
		t.Fatal(err)
	}
}

// Before the platform's migrator has made the extension, a worker that may not make it
// waits: alive, not ready, and without a table that would be in the migrator's way.
func TestAWorkerWaitsForTheMigratorsExtension(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	database.OfferTimescale(t)
	var log logtest.Log
	worker := NewWorker(Options{Config: workerConfig(t, database.URL), Pool: database.Pool(t), Buffer: spool.NewMemory(10), Log: log.Logger()})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx) }()
	pgtest.Eventually(t, "it waits", func() bool { return len(log.Lines(t, "database is not ready, waiting for it")) == 1 })
	if err := worker.Ready(); err == nil {
		t.Error("it is ready")
	}
	check := database.Pool(t)
	pgtest.WantRows(t, check, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
	database.WithdrawTimescale(t)
	database.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	pgtest.Eventually(t, "it is ready", func() bool { return worker.Ready() == nil })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if lines := log.Lines(t, "database is not ready, waiting for it"); len(lines) != 1 {
		t.Errorf("%d lines within a minute", len(lines))
	}
}

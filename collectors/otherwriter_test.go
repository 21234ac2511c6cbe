package collectors

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"ops_worker/internal/lease"
	"ops_worker/internal/logtest"
	"ops_worker/internal/pgtest"
)

// write runs a statement over and over, as the worker before this one does, until
// the function that it returns is called.
func write(t *testing.T, database *pgtest.Database, sql string) (stop func()) {
	t.Helper()
	pool := database.Pool(t)
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		every := time.NewTicker(100 * time.Millisecond)
		defer every.Stop()
		for {
			if _, err := pool.Exec(context.WithoutCancel(ctx), sql); err != nil {
				t.Error(err)
			}
			select {
			case <-ctx.Done():
				return
			case <-every.C:
			}
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		writing.Wait()
	})
	t.Cleanup(stop)
	return stop
}

const (
	foreignSample = "INSERT INTO system_metrics (time, metric_name, service, value) VALUES (clock_timestamp(), 'healthy', 'ingest', 1)"
	foreignCheck  = `INSERT INTO service_health (service, status, checked_at) VALUES ('foreign', 'healthy', clock_timestamp())
		ON CONFLICT (service) DO UPDATE SET checked_at = clock_timestamp()`
)

// Nothing of ours is written while another writes the same, and all of it is once
// that has stopped.
func TestAStartWaitsForTheOtherWriter(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	stopSamples, stopChecks := write(t, database, foreignSample), write(t, database, foreignCheck)
	pgtest.Eventually(t, "the other writes", func() bool {
		return pgtest.Count(t, pool, "SELECT (SELECT count(*) FROM system_metrics) * (SELECT count(*) FROM service_health)") > 0
	})
	cfg := workerConfig(t, database.URL, "WAIT_FOR_OTHER_WRITER=true", "HEALTH_CHECK_INTERVAL=5")
	var log logtest.Log
	startWorker(t, cfg, log.Logger())
	logged := func(text string) func() bool { return func() bool { return strings.Contains(log.String(), text) } }
	pgtest.Eventually(t, "it waits", logged(`"writes":"samples","age_ms"`))
	standing := func(sql string) bool { return pgtest.Count(t, pool, sql) > 0 }
	stopSamples()
	pgtest.Eventually(t, "it collects", logged("this replica collects"))
	var last time.Time
	if err := pool.QueryRow(t.Context(), "SELECT max(time) FROM system_metrics WHERE metric_name = 'healthy' AND tags = '{}' AND service = 'ingest' AND time < (SELECT min(time) FROM system_metrics WHERE metric_name = 'connections')").Scan(&last); err == nil {
		if gap := pgtest.Count(t, pool, "SELECT (extract(epoch FROM min(time) - $1) * 1000)::int FROM system_metrics WHERE metric_name = 'connections'", last); gap < 3000 {
			t.Errorf("ours begins %d ms after the other's last sample, want three intervals", gap)
		}
	}
	pgtest.Eventually(t, "samples are stored while health rows of another still come", func() bool {
		return standing("SELECT count(*) FROM system_metrics WHERE metric_name = 'connections'") && logged(`"writes":"health rows","age_ms"`)()
	})
	if standing("SELECT count(*) FROM service_health WHERE service = 'ingest'") {
		t.Error("a health row of ours stands beside the other's")
	}
	stopChecks()
	pgtest.Eventually(t, "the health rows are ours", func() bool {
		return standing("SELECT count(*) FROM service_health WHERE service = 'ingest'")
	})
	wantNoErrors(t, &log)
}

// What an ops-worker wrote is not another's, whether it still collects or not.
func TestAnOpsWorkerIsNoOtherWriter(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	leases := lease.NewPostgres(store.client)
	find := func() lease.Foreign {
		t.Helper()
		f, err := leases.FindForeign(t.Context(), []string{"healthy"})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := find(); f.Sample != nil || f.Check != nil {
		t.Errorf("on empty tables: %+v", f)
	}
	database.Exec(t, foreignSample+";"+foreignCheck)
	if f := find(); f.Sample == nil || f.Check == nil || *f.Sample < 0 {
		t.Errorf("without a lease: %+v", f)
	}
	database.Exec(t, "INSERT INTO system_metrics (time, metric_name, service, value) VALUES (now() + interval '400 days', 'healthy', 'ingest', 1)")
	if f := find(); f.Sample == nil || *f.Sample < 0 {
		t.Errorf("behind one that a wrong clock has stamped: %+v", f)
	}
	token := acquire(t, store, "a")
	if f := find(); f.Sample != nil || f.Check != nil {
		t.Errorf("under a lease: %+v", f)
	}
	if err := leases.Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if f := find(); f.Sample != nil || f.Check != nil {
		t.Errorf("what was there before the lease: %+v", f)
	}
	database.Exec(t, foreignSample+"; UPDATE service_health SET checked_at = clock_timestamp() + interval '2 s'")
	if f := find(); f.Sample == nil || f.Check == nil {
		t.Errorf("after it: %+v", f)
	}
	pgtest.WantRows(t, pool, "SELECT holder FROM ops_worker_lease", "")
}

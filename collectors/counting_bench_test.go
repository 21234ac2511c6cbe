package collectors

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pace"
	"ops_worker/internal/pgtest"
)

// fleetSizes are the fleets that BenchmarkAggregates counts: more with
// BENCH_DEVICES=10000000, which takes minutes and some 6 GB of disk.
func fleetSizes(b *testing.B) []int {
	b.Helper()
	sizes := []int{10_000, 100_000, 500_000, 1_000_000}
	if text := os.Getenv("BENCH_DEVICES"); text != "" {
		most, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal("BENCH_DEVICES must be a number of devices")
		}
		sizes = append(sizes, most)
	}
	return sizes
}

// fleet fills a database with devices, of which each is in some state.
func fleet(b *testing.B, database *pgtest.Database, devices int) {
	b.Helper()
	database.Exec(b, fmt.Sprintf(`
		ALTER TABLE device_state SET (autovacuum_enabled = off);
		ALTER TABLE device_registry SET (autovacuum_enabled = off);
		INSERT INTO device_state (tenant_id, device_id, site_id, status, last_seen_at, state)
		SELECT 'tenant-' || i %% 100, 'device-' || i, 'site-' || i %% 1000,
		       (ARRAY['ONLINE', 'ONLINE', 'ONLINE', 'STALE', 'OFFLINE'])[i %% 5 + 1], now(), '{"temperature": 21.5, "battery": 87, "rssi": -71}'
		FROM generate_series(1, %[1]d) i;
		INSERT INTO device_registry (tenant_id, device_id, site_id, status)
		SELECT 'tenant-' || i %% 100, 'device-' || i, 'site-' || i %% 1000, CASE WHEN i %% 50 = 0 THEN 'REVOKED' ELSE 'ACTIVE' END
		FROM generate_series(1, %[1]d) i`, devices))
}

// BenchmarkAggregates counts fleets of several sizes, just vacuumed and after every
// device has changed. It reports what an aggregate takes, how often it is counted at
// the default budget and interval, and what all of them keep busy of a backend.
func BenchmarkAggregates(b *testing.B) {
	const interval = 5 * time.Second
	for _, devices := range fleetSizes(b) {
		database := pgtest.New(b)
		fleet(b, database, devices)
		pool := database.Pool(b)
		for _, state := range []struct{ name, prepare string }{
			{"vacuumed", "VACUUM ANALYZE device_state, device_registry"},
			{"changed", "UPDATE device_state SET last_seen_at = now()"},
		} {
			database.Exec(b, state.prepare)
			b.Run(fmt.Sprintf("%d/%s", devices, state.name), func(b *testing.B) {
				list := Aggregates
				costs := make([]time.Duration, len(list))
				for b.Loop() {
					for i, a := range list {
						if err := db.InTx(b.Context(), pool, db.ReadOnly, db.Limits{Statement: 10 * time.Minute, Lock: 10 * time.Minute}, func(q *db.Queries) error {
							return db.ReadAggregates(context.WithoutCancel(b.Context()), q, []db.Aggregate{a}, func(_ db.Aggregate, _ []db.Sample, took time.Duration) { costs[i] += took })
						}); err != nil {
							b.Fatal(err)
						}
					}
				}
				jobs := make([]pace.Job, len(list))
				for i, a := range list {
					jobs[i] = pace.Job{Interval: max(a.Every, interval), Cost: costs[i] / time.Duration(b.N)}
				}
				busy := 0.0
				for i, every := range pace.Intervals(0.02, jobs) {
					busy += jobs[i].Cost.Seconds() / every.Seconds()
					if a := list[i]; jobs[i].Cost > 5*time.Millisecond || a.Name == "devices" {
						b.ReportMetric(jobs[i].Cost.Seconds()*1000, a.Name+"-ms")
						b.ReportMetric(every.Seconds(), a.Name+"-every-s")
					}
				}
				b.ReportMetric(100*busy, "busy-%")
			})
		}
	}
}

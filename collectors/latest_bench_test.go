package collectors

import (
	"slices"
	"testing"
	"time"

	"ops_worker/internal/contracttest"
	"ops_worker/internal/pgtest"
)

// BenchmarkLatest is what each viewer's page asks every 15 s, /metrics/latest, on a week of
// samples: with the index that the worker makes of an empty table, and with the platform's.
func BenchmarkLatest(b *testing.B) {
	pool := pgtest.New(b).Pool(b)
	exec := func(statements ...string) {
		b.Helper()
		for _, sql := range statements {
			if _, err := pool.Exec(b.Context(), sql); err != nil {
				b.Fatal(err)
			}
		}
	}
	var names, services []string
	var intervals []time.Duration
	series := func(every time.Duration, samples ...[]contracttest.Sample) {
		for _, s := range slices.Concat(samples...) {
			names, services, intervals = append(names, s.Metric), append(services, s.Service), append(intervals, every)
		}
	}
	series(5*time.Second, contracttest.Samples, contracttest.LaterSamples)
	series(time.Minute, contracttest.MinuteSamples, contracttest.RunSamples)
	series(5*time.Minute, contracttest.FiveMinuteSamples, slices.Repeat([]contracttest.Sample{{Service: "postgres", Metric: "table_bytes"}}, 9))
	if _, err := pool.Exec(b.Context(), `
		INSERT INTO system_metrics (time, metric_name, service, tags, value)
		SELECT t, x.name, x.service, '{}', 1e6 * random()
		FROM (SELECT unnest($1::text[]) AS name, unnest($2::text[]) AS service, unnest($3::interval[]) AS every) x
		CROSS JOIN LATERAL generate_series(now() - interval '7 days', now() - x.every, x.every) t
		ORDER BY t`, names, services, intervals); err != nil {
		b.Fatal(err)
	}
	latest := routeNamed("/metrics/latest").SQL
	for _, index := range []struct{ name, columns string }{
		{"worker", ""},
		{"platform", "(metric_name, service, time DESC)"},
	} {
		b.Run(index.name, func(b *testing.B) {
			if index.columns != "" {
				exec("DROP INDEX idx_system_metrics_name_service_time", "CREATE INDEX idx_system_metrics_name_service_time ON system_metrics "+index.columns)
			}
			// The tests' server commits asynchronously: a page is visible to all once the commit is flushed.
			exec("CHECKPOINT", "VACUUM ANALYZE system_metrics")
			for b.Loop() {
				exec(latest)
			}
			b.ReportMetric(float64(pgtest.Count(b, pool, "SELECT count(*) FROM system_metrics")), "rows")
		})
	}
}

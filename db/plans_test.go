package db_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// million fills what grows with the fleet and with time: a million rows each, nearly all of them history.
const million = `
	INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, created_at, summary)
	SELECT CASE WHEN i % 10 = 0 THEN 't' ELSE '__system__' END, 's', 'd', 'x', 'system-health:' || i % 20, CASE WHEN i > 999990 THEN 'ACKNOWLEDGED' ELSE 'CLOSED' END, now() - make_interval(secs => i), 'x'
	FROM generate_series(1, 1000000) i;
	INSERT INTO ops_worker_message (fingerprint, opened_at) SELECT 'system-health:' || i, now() - make_interval(secs => i) FROM generate_series(1, 20) i;
	INSERT INTO device_state (tenant_id, device_id, site_id, status) SELECT 't', i::text, 's', 'ONLINE' FROM generate_series(1, 1000000) i;
	INSERT INTO system_metrics (time, metric_name, service, value)
	SELECT now() - make_interval(secs => i), 'm' || i % 50, 's' || i % 5, i FROM generate_series(1, 1000000) i;
	INSERT INTO service_health (service, status) SELECT 's' || i, 'healthy' FROM generate_series(1, 5) i;
	INSERT INTO ops_worker_lease (name, holder, epoch, acquired_at, expires_at, ttl) VALUES ('ops_worker', 'h', 1, now(), now() + interval '15 seconds', '15 seconds');
	ANALYZE fleet_alert, device_state, system_metrics, service_health, ops_worker_lease`

var scan = regexp.MustCompile(`Seq Scan on (fleet_alert|device_state|system_metrics)`)

// Of what the loops run on large tables, none but the platform's counts reads one from end to end.
func TestNoStatementButTheCountsScansALargeTable(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	for _, statement := range strings.Split(million, ";\n") { // each takes seconds
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	services := []string{"s1", "s2", "s3"}
	calls := map[string]func(context.Context, *db.Queries){
		"alerts": func(ctx context.Context, q *db.Queries) {
			_, _ = q.OpenSystemAlert(ctx, db.OpenSystemAlertParams{Fingerprint: "system-health:s1", OpenedAt: time.Now(), Details: "{}"})
		},
		"messages": func(ctx context.Context, q *db.Queries) {
			_, _ = q.OpenSystemAlerts(ctx)
			_, _ = q.DueMessages(ctx)
		},
		"samples": func(ctx context.Context, q *db.Queries) {
			for _, recheck := range []bool{false, true} {
				at := time.Now()
				_, _ = q.AppendSamples(ctx, db.AppendSamplesParams{LeaseName: "ops_worker", Holder: "h", Epoch: 1, FutureSeconds: 60, CycleAt: at, TtlSeconds: 15,
					Times: []time.Time{at, at, at}, MetricNames: []string{"m1", "m2", "m3"}, Services: services, Tags: []string{"{}", "{}", "{}"}, Values: []float64{1, 2, 3}, Recheck: recheck})
			}
		},
		"newest values": func(ctx context.Context, q *db.Queries) {
			_, _ = q.NewestValues(ctx, db.NewestValuesParams{MetricNames: []string{"m1", "m2", "m3"}, Services: services, FutureSeconds: 60})
		},
		"newest writes": func(ctx context.Context, q *db.Queries) {
			_, _ = q.DoctorNewestWrites(ctx, db.DoctorNewestWritesParams{FutureSeconds: 60, OverdueSeconds: 180})
		},
		"retention": func(ctx context.Context, q *db.Queries) {
			_, _ = q.DeleteExpiredSamples(ctx, db.DeleteExpiredSamplesParams{Cutoff: time.Now().Add(-24 * time.Hour), BatchSize: 1000})
		},
		"the newest cycle": func(ctx context.Context, q *db.Queries) {
			_ = q.CreateLease(ctx, db.CreateLeaseParams{Name: "another", FutureSeconds: 60})
		},
	}
	for name, call := range calls {
		for _, plan := range pgtest.Plans(t, pool, call) {
			if scan.MatchString(plan) {
				t.Errorf("%s reads a whole table:\n%s", name, plan)
			}
		}
	}
}

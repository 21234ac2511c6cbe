package db_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// explainer plans what it should send, and executes nothing.
type explainer struct {
	tx    pgx.Tx
	plans *[]string
	err   *error
}

var errPlanned = errors.New("planned, not executed")

func (e explainer) explain(ctx context.Context, sql string, args []any) {
	rows, err := e.tx.Query(ctx, "EXPLAIN "+sql, args...)
	if err == nil {
		var lines []string
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		*e.plans = append(*e.plans, strings.Join(lines, "\n"))
	}
	*e.err = errors.Join(*e.err, err)
}

func (e explainer) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	e.explain(ctx, sql, args)
	return pgconn.CommandTag{}, errPlanned
}

func (e explainer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	e.explain(ctx, sql, args)
	return nil, errPlanned
}

func (e explainer) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	e.explain(ctx, sql, args)
	return plannedRow{}
}

type plannedRow struct{}

func (plannedRow) Scan(...any) error { return errPlanned }

// million fills what grows with the fleet and with time: a million rows each, nearly all of them history.
const million = `
	INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
	SELECT CASE WHEN i % 10 = 0 THEN 't' ELSE '__system__' END, 's', 'd', 'x', 'system-health:' || i % 20, CASE WHEN i > 999990 THEN 'ACKNOWLEDGED' ELSE 'CLOSED' END, 'x'
	FROM generate_series(1, 1000000) i;
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
	database.Exec(t, "SET maintenance_work_mem = '256MB'; "+million)
	services, healthy := []string{"s1", "s2", "s3"}, []bool{true, false, true}
	calls := map[string]func(context.Context, *db.Queries){
		"alerts": func(ctx context.Context, q *db.Queries) {
			for _, acknowledged := range []bool{false, true} {
				_, _ = q.SyncSystemAlerts(ctx, db.SyncSystemAlertsParams{Services: services, Healthy: healthy, Reasons: services, Acknowledged: acknowledged})
			}
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
			_, _ = q.NewestWrites(ctx, db.NewestWritesParams{MetricNames: []string{"m1", "m2"}, FutureSeconds: 60})
		},
		"retention": func(ctx context.Context, q *db.Queries) {
			_, _ = q.DeleteExpiredSamples(ctx, db.DeleteExpiredSamplesParams{Cutoff: time.Now().Add(-24 * time.Hour), BatchSize: 1000})
		},
		"the newest cycle": func(ctx context.Context, q *db.Queries) {
			_, _ = q.CorrectNewestCycle(ctx, db.CorrectNewestCycleParams{Name: "ops_worker", FutureSeconds: 60})
		},
	}
	counts := map[string]bool{}
	for _, a := range db.Aggregates {
		counts["the aggregate "+a.Name] = a.Platform
	}
	for i, s := range db.WorkerStatements() {
		if !counts[s.Use] {
			calls[fmt.Sprintf("%s (statement %d, without arguments)", s.Use, i)] = s.Call
		}
	}
	pool := database.Pool(t)
	for name, call := range calls {
		var plans []string
		var failed error
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			call(t.Context(), db.New(explainer{tx, &plans, &failed}))
			return failed
		})
		if err != nil || len(plans) == 0 {
			t.Errorf("%s: %d plans, %v", name, len(plans), err)
		}
		for _, plan := range plans {
			if scan.MatchString(plan) {
				t.Errorf("%s reads a whole table:\n%s", name, plan)
			}
		}
	}
}

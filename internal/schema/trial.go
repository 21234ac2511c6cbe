package schema

import (
	"context"
	"errors"
	"time"

	"ops_worker/db"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Trial is a write of the worker that is run and rolled back: a constraint, a
// partition that is missing or a trigger shows in no plan.
type Trial struct {
	Statement Statement // of WorkerStatements
	run       func(ctx context.Context, q *db.Queries) error
}

// trialName stands for the lease's row, the service and the alert of a trial, so
// that it locks no row which a worker needs.
const trialName = "ops_worker_doctor"

// errRolledBack ends a trial that the server has accepted.
var errRolledBack = errors.New("rolled back")

// Trials are what the worker writes in its cycles.
func Trials() []Trial {
	run := map[string]func(context.Context, *db.Queries) error{
		forSamples: func(ctx context.Context, q *db.Queries) error {
			if err := q.CreateLease(ctx, trialName); err != nil {
				return err
			}
			// Of the samples that stand, so that the one below comes after them.
			if _, err := q.CorrectNewestCycle(ctx, db.CorrectNewestCycleParams{Name: trialName, FutureSeconds: 0}); err != nil {
				return err
			}
			row, err := q.AcquireLease(ctx, db.AcquireLeaseParams{Name: trialName, Holder: trialName, TtlSeconds: 60})
			if err != nil {
				return err
			}
			_, err = q.AppendSamples(ctx, db.AppendSamplesParams{
				LeaseName: trialName, Holder: trialName, Epoch: row.Epoch, TtlSeconds: 60, FutureSeconds: time.Hour.Seconds(),
				CycleAt: row.Now, Times: []time.Time{row.Now.Add(time.Millisecond)}, MetricNames: []string{"healthy"},
				Services: []string{trialName}, Tags: []string{"{}"}, Values: []float64{1},
			})
			return err
		},
		forHealthRows: func(ctx context.Context, q *db.Queries) error {
			_, err := q.UpsertServiceHealth(ctx, db.UpsertServiceHealthParams{
				CheckedAt: time.Now(), Services: []string{trialName, trialName + "_2"}, Statuses: []string{"healthy", "unhealthy"},
				LatenciesMs: []int32{1, -1}, Details: []string{`{"status": "healthy"}`, `{"status": "down"}`},
			})
			return err
		},
		ForSystemAlerts: func(ctx context.Context, q *db.Queries) error {
			for _, healthy := range []bool{false, true} { // opened, and closed
				_, err := q.SyncSystemAlerts(ctx, db.SyncSystemAlertsParams{
					Services: []string{trialName}, Healthy: []bool{healthy}, Reasons: []string{"trial"}, Acknowledged: true,
				})
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	var list []Trial
	for _, s := range WorkerStatements() {
		if try, ok := run[s.Use]; ok {
			list = append(list, Trial{s, try})
		}
	}
	return list
}

// Run runs the trial, and rolls it back. The error is the server's.
func (t Trial) Run(ctx context.Context, pool *pgxpool.Pool, limit time.Duration) error {
	err := db.InTx(ctx, pool, db.ReadWrite, limit, func(q *db.Queries) error {
		if t.Statement.Platform {
			if _, err := q.EnterPlatformScope(ctx); err != nil {
				return err
			}
		}
		if err := t.run(ctx, q); err != nil {
			return err
		}
		return errRolledBack
	})
	if errors.Is(err, errRolledBack) {
		return nil
	}
	return err
}

package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"ops_worker/db"
	"ops_worker/internal/humanize"
	"ops_worker/internal/schema"
)

// checkRoutes has the server plan what the platform's system routes read, in the role
// that they take on. That shows a missing table, column or right, and a policy that
// hides rows. Where the login role may not take that role on, its rights are left out.
func checkRoutes(ctx context.Context, r *run, f *findings) error {
	var refused refusals
	planned := 0
	for _, route := range schema.Routes() {
		role, asRole := r.connection.server.LoginRole, route.Operator && r.role.OperatorGranted
		err := r.database.tx(ctx, db.ReadOnly, func(tx pgx.Tx) (err error) {
			if asRole {
				if role, err = db.New(tx).DoctorEnterRole(ctx, schema.OperatorRole); err != nil {
					return err
				}
			}
			_, err = tx.Exec(ctx, "EXPLAIN "+route.SQL)
			return err
		})
		if db.IsForbidden(err) && !asRole || route.If != "" && db.IsMissingTable(err) {
			continue
		}
		planned++
		if err := refused.note(route.Name, role, err); err != nil {
			return fmt.Errorf("plan the route %s: %w", route.Name, err)
		}
	}
	refused.report(r, f, "as the owner of the tables: `ops-worker migrate up`, which lets "+schema.OperatorRole+" read what the routes read")
	if f.result == OK {
		f.note("the server plans %d of their %d reads", planned, len(schema.Routes()))
	}
	return nil
}

// How long an aggregate may take here, and how old its numbers may become before that
// is a warning.
const (
	countingLimit = 2 * time.Second
	oldNumbers    = 30 * time.Minute
)

// checkAggregates runs every aggregate in the role that reads it, and shows how often
// it is counted for what it costs.
func checkAggregates(ctx context.Context, r *run, f *findings) error {
	var refused refusals
	var together time.Duration
	for i, a := range r.aggregates {
		role, took, err := r.count(ctx, a)
		together += took
		if ctx.Err() != nil {
			f.note("%d of %d were not read in time", len(r.aggregates)-i, len(r.aggregates))
			break
		}
		if err != nil && !db.IsTimeout(err) {
			if err := refused.note(a.Name, role, err); err != nil {
				return fmt.Errorf("read the aggregate %s: %w", a.Name, err)
			}
			continue
		}
		cost := latency(took)
		if err != nil {
			cost = "more than " + cost
		}
		wanted := max(a.Every, r.interval())
		switch every := max(wanted, time.Duration(float64(took)/r.cfg.AggregateBudget.Share())); {
		case every >= oldNumbers:
			f.warn("raise AGGREGATE_BUDGET", "%s takes %s, so it is counted every %s at most", a.Name, cost, humanize.Age(every))
		case every > wanted:
			f.note("%s takes %s, so it is counted every %s at most, not every %s", a.Name, cost, humanize.Age(every), humanize.Age(wanted))
		}
	}
	refused.report(r, f, r.grants())
	f.note("all together take %s; AGGREGATE_BUDGET is %g %%", latency(together), float64(r.cfg.AggregateBudget))
	return nil
}

// count runs an aggregate, and returns the role that read it and how long it took.
func (r *run) count(ctx context.Context, a db.Aggregate) (role string, took time.Duration, err error) {
	role = r.connection.server.LoginRole
	limits := db.Limits{Statement: countingLimit, Lock: lockLimit}
	err = db.InTx(ctx, r.database.pool, db.ReadOnly, limits, func(q *db.Queries) (err error) {
		if a.Platform {
			if role, err = q.EnterPlatformScope(ctx); err != nil {
				return err
			}
		}
		began := time.Now()
		_, err = a.Read(ctx, q)
		took = time.Since(began)
		return err
	})
	return role, took, err
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
	"ops_worker/internal/humanize"
	"ops_worker/internal/pace"
)

// counted is an aggregate, read now.
type counted struct {
	db.Aggregate
	rows []db.Sample
	// took is how long its call took; where it did not end in doctor's time, at least
	// so long.
	took    time.Duration
	unended bool
	every   time.Duration // as the budget has it
	err     error
}

// The share of a check's time for one aggregate; and how old numbers may become
// before that is a warning.
const (
	shareOfAggregate = 2. / 3
	oldNumbers       = 30 * time.Minute
)

// counts reads every aggregate once.
func (r *run) counts(ctx context.Context) ([]counted, error) {
	return r.counting.get(func() ([]counted, error) {
		interval, err := r.metricsInterval(ctx)
		if err != nil {
			return nil, err
		}
		deadline, _ := ctx.Deadline()
		var list []counted
		var jobs []pace.Job
		for _, a := range db.Aggregates {
			c := counted{Aggregate: a}
			began := time.Now()
			limit := time.Duration(float64(time.Until(deadline)) * shareOfAggregate)
			c.err = db.InTx(ctx, r.pool, db.ReadOnly, limit, func(q *db.Queries) (err error) {
				return db.ReadAggregates(ctx, q, []db.Aggregate{a}, func(_ db.Aggregate, samples []db.Sample, took time.Duration) {
					c.rows, c.took = samples, took
				})
			})
			switch {
			case c.err == nil:
			case db.IsTimeout(c.err):
				c.took, c.unended = time.Since(began), true
			case !db.IsServerError(c.err):
				return nil, c.err
			}
			list = append(list, c)
			jobs = append(jobs, pace.Job{Interval: max(a.Every, interval), Cost: c.took})
		}
		for i, every := range pace.Intervals(r.cfg.AggregateBudget.Share(), jobs) {
			list[i].every = every
		}
		return list, nil
	})
}

// checkAggregates shows what each aggregate costs, and how often it is counted for
// that.
func checkAggregates(ctx context.Context, r *run, f *findings) error {
	list, err := r.counts(ctx)
	if err != nil {
		return err
	}
	interval, err := r.metricsInterval(ctx)
	if err != nil {
		return err
	}
	const raise = "raise AGGREGATE_BUDGET"
	pacedTo := map[time.Duration][]string{}
	share := 0.0
	for _, c := range list {
		wanted := max(c.Every, interval)
		share += c.took.Seconds() / c.every.Seconds()
		cost := fmt.Sprintf("%.1f ms", c.took.Seconds()*1000)
		if c.took >= time.Second {
			cost = fmt.Sprintf("%.1f s", c.took.Seconds())
		}
		if c.unended {
			cost = "more than " + cost
		}
		switch {
		case c.err != nil && !c.unended:
			text, found, err := r.failedAggregate(ctx, c)
			if err != nil {
				return err
			}
			if !found {
				f.fail("what the server says; the worker's log has it too", "%s is not counted: %s", c.Name, text)
			}
		case c.every >= oldNumbers:
			f.warn(raise, "%s takes %s, so it is counted every %s at most", c.Name, cost, age(c.every))
		case c.every > wanted || c.unended:
			f.note("%s takes %s, so it is counted every %s, not every %s", c.Name, cost, age(c.every), age(wanted))
		default:
			pacedTo[wanted] = append(pacedTo[wanted], c.Name+" "+cost)
		}
	}
	for _, wanted := range []time.Duration{interval, max(time.Minute, interval)} {
		if names := pacedTo[wanted]; len(names) > 0 {
			f.note("every %s: %s", age(wanted), strings.Join(names, ", "))
			delete(pacedTo, wanted)
		}
	}
	f.note("all together keep the database busy for %.2g %% of the time; AGGREGATE_BUDGET is %g %%", 100*share, float64(r.cfg.AggregateBudget))
	return nil
}

// failedAggregate is why an aggregate cannot be read, and whether that has a finding
// of its own: what the planner says above.
func (r *run) failedAggregate(ctx context.Context, c counted) (text string, found bool, err error) {
	var refused *pgconn.PgError
	if !errors.As(c.err, &refused) {
		return "", true, nil
	}
	planned, err := r.refusals(ctx)
	found = slices.ContainsFunc(planned, func(p refusal) bool { return p.statement.Use == c.Use() })
	return humanize.OneLine(refused.Message), found, err
}

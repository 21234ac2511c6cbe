package collectors

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/spool"
)

// aggregateLimit is how long the server may take over one aggregate: less than
// there is for all, so that it ends one that is too slow before the worker has
// to give up the connection, and with it the others.
func aggregateLimit(ctx context.Context, longest time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(longest, time.Until(deadline)*2/3)
	}
	return longest
}

// Aggregates is what the database knew of itself and the platform.
type Aggregates struct {
	// Answered tells that the database answered at all.
	Answered bool
	Samples  []spool.Sample
	// Failed holds an error for each aggregate that yielded no samples.
	Failed map[string]error
}

// readAggregates runs all aggregates in one round trip, which is one
// transaction. Where one fails, the server drops the rest of that trip, and
// those behind it go in another: a missing table costs its own samples and one
// more round trip.
func readAggregates(ctx context.Context, pool *pgxpool.Pool, limit time.Duration) Aggregates {
	result := Aggregates{Failed: map[string]error{}}
	for rest := db.Aggregates; len(rest) > 0; {
		done, err := readBatch(ctx, pool, aggregateLimit(ctx, limit), rest, &result)
		rest = rest[done:]
		if err == nil || len(rest) == 0 {
			continue // where the commit fails nothing is lost: the batch only reads
		}
		if !result.Answered || ctx.Err() != nil || !db.IsServerError(err) {
			// The connection is at fault, not the query.
			for _, a := range rest {
				result.Failed[a.Name] = err
			}
			return result
		}
		result.Failed[rest[0].Name] = fmt.Errorf("aggregate %s: %w", rest[0].Name, explain(err, readAdvice))
		rest = rest[1:]
	}
	return result
}

// readBatch reads aggregates until one fails and returns how many did not.
func readBatch(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, list []db.Aggregate, result *Aggregates) (done int, err error) {
	platform := slices.IndexFunc(list, func(a db.Aggregate) bool { return a.Platform }) // the first of them
	queue := func(batch *pgx.Batch) {
		for i, a := range list {
			if i == platform {
				db.Queue(batch, func(q *db.Queries) { _, _ = q.EnterPlatformScope(ctx) })
			}
			batch.Queue(a.SQL)
		}
	}
	err = db.InOneTrip(ctx, pool, db.ReadOnly, db.BatchLimits(limit), queue, func(results pgx.BatchResults) error {
		result.Answered = true
		for i := range list {
			if i == platform {
				if _, err := results.Exec(); err != nil {
					return err
				}
			}
			samples, err := readSamples(results)
			if err != nil {
				return err
			}
			result.Samples = append(result.Samples, samples...)
			done++
		}
		return nil
	})
	return done, err
}

// readSamples reads the rows of one aggregate. A chart has no place for NaN, nor
// has JSON.
func readSamples(results pgx.BatchResults) ([]spool.Sample, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	samples, err := pgx.CollectRows(rows, toSample)
	return slices.DeleteFunc(samples, func(s spool.Sample) bool { return math.IsNaN(s.Value) || math.IsInf(s.Value, 0) }), err
}

// toSample reads a row of any aggregate: all have DeviceSamplesRow's columns.
func toSample(row pgx.CollectableRow) (spool.Sample, error) {
	r, err := pgx.RowToStructByName[db.DeviceSamplesRow](row)
	return spool.Sample{Metric: r.MetricName, Service: r.Service, Tags: r.Tags, Value: r.Value}, err
}

// What mends an error about row-level security.
const (
	readAdvice = "nothing was counted: let the worker read past the policies with " +
		"GRANT pulse_operator TO <the worker's login role> (pulse_operator needs BYPASSRLS, and SELECT on the table)"
	alertAdvice = "no alert was opened or closed: let the worker write past the policies with " +
		"GRANT pulse_operator TO <the worker's login role>, and " +
		"GRANT SELECT, INSERT, UPDATE ON fleet_alert, SELECT, INSERT ON tenants and USAGE ON SEQUENCE fleet_alert_id_seq TO pulse_operator"
)

// explain adds what mends it to an error about row-level security: the server
// names the table, but not what to do.
func explain(err error, advice string) error {
	if !db.IsRowSecurity(err) {
		return err
	}
	return fmt.Errorf("row-level security would hide rows from this role, so %s: %w", advice, err)
}

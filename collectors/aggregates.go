package collectors

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
)

// aggregate is one query of sql/queries/aggregates.sql.
type aggregate struct {
	name string
	sql  string
	// platform marks the tables of the platform, which are read in its
	// operator's role, past row-level security or not at all.
	platform bool
}

// aggregates is the table to extend for a table that is not read yet. A further
// number of one that is needs no line here: the SQL decides which samples exist.
// The platform's come last, since their role holds to the end of the batch, and
// of these the dear ones, since whatever they leave of the time is the others'.
var aggregates = []aggregate{
	{name: "database", sql: db.DatabaseSamples},
	{name: "alerts", sql: db.AlertSamples, platform: true},
	{name: "deliveries", sql: db.DeliverySamples, platform: true},
	{name: "devices", sql: db.DeviceSamples, platform: true},
}

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
	Samples  []Sample
	// Failed holds an error for each aggregate that yielded no samples.
	Failed map[string]error
}

// readAggregates runs all aggregates in one round trip, which is one
// transaction. Where one fails, the server drops the rest of that trip, and
// those behind it go in another: a missing table costs its own samples and one
// more round trip.
func readAggregates(ctx context.Context, send func(context.Context, *pgx.Batch) pgx.BatchResults, limit time.Duration) Aggregates {
	result := Aggregates{Failed: map[string]error{}}
	for rest := aggregates; len(rest) > 0; {
		done, err := readBatch(ctx, send, aggregateLimit(ctx, limit), rest, &result)
		rest = rest[done:]
		if err == nil {
			continue
		}
		if !result.Answered || ctx.Err() != nil || !isServerError(err) {
			// The connection is at fault, not the query.
			for _, a := range rest {
				result.Failed[a.name] = err
			}
			return result
		}
		result.Failed[rest[0].name] = fmt.Errorf("aggregate %s: %w", rest[0].name, explain(err, readAdvice))
		rest = rest[1:]
	}
	return result
}

// readBatch reads aggregates until one fails and returns how many did not.
func readBatch(ctx context.Context, send func(context.Context, *pgx.Batch) pgx.BatchResults, limit time.Duration, list []aggregate, result *Aggregates) (done int, err error) {
	batch := &pgx.Batch{}
	scoped := false
	reads := make([]bool, 0, len(list)+2)
	queue := func(read bool, call func(*db.Queries)) {
		db.Queue(batch, call)
		reads = append(reads, read)
	}
	queue(false, func(q *db.Queries) { _, _ = q.LimitTransaction(ctx, max(1, limit.Milliseconds())) })
	for _, a := range list {
		if a.platform && !scoped {
			queue(false, func(q *db.Queries) { _, _ = q.EnterPlatformScope(ctx) })
			scoped = true
		}
		batch.Queue(a.sql)
		reads = append(reads, true)
	}

	results := send(ctx, batch)
	defer func() {
		// A commit that fails loses nothing: the batch only reads.
		if closeErr := results.Close(); err == nil && done < len(list) {
			err = closeErr
		}
	}()
	for _, read := range reads {
		if !read {
			if _, err := results.Exec(); err != nil {
				return done, err
			}
			result.Answered = true
			continue
		}
		rows, err := results.Query()
		if err != nil {
			return done, err
		}
		samples, err := pgx.CollectRows(rows, toSample)
		if err != nil {
			return done, err
		}
		// A chart has no place for NaN, nor has JSON.
		result.Samples = append(result.Samples, slices.DeleteFunc(samples, func(s Sample) bool {
			return math.IsNaN(s.Value) || math.IsInf(s.Value, 0)
		})...)
		done++
	}
	return done, nil
}

// toSample reads a row of any aggregate: all have DeviceSamplesRow's columns.
func toSample(row pgx.CollectableRow) (Sample, error) {
	r, err := pgx.RowToStructByName[db.DeviceSamplesRow](row)
	return Sample{Metric: r.MetricName, Service: r.Service, Tags: r.Tags, Value: r.Value}, err
}

func isServerError(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr)
}

// What mends an error about row-level security.
const (
	readAdvice = "nothing was counted: let the worker read past the policies with " +
		"GRANT pulse_operator TO <the worker's login role> (pulse_operator needs BYPASSRLS, and SELECT on the table)"
	alertAdvice = "no alert was opened or closed: let the worker write past the policies with " +
		"GRANT pulse_operator TO <the worker's login role>, and " +
		"GRANT SELECT, INSERT, UPDATE ON fleet_alert, SELECT, INSERT ON tenants and USAGE ON SEQUENCE fleet_alert_id_seq TO pulse_operator"
)

// explain adds what mends it to an error about row-level security. The server
// names the table, but not what to do; and it speaks the language it was set up
// with, so the routine that raised the error is what tells it apart.
func explain(err error, advice string) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Routine != "check_enable_rls" {
		return err
	}
	return fmt.Errorf("row-level security would hide rows from this role, so %s: %w", advice, err)
}

package collectors

import (
	"context"
	"fmt"
	"maps"
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
	// Answered tells that the database answered at all, and StandbyAway why the standby
	// did not.
	Answered    bool
	StandbyAway error
	// Samples are those of each aggregate that was read, and Took is how long the server
	// was busy with it.
	Samples map[string][]spool.Sample
	Took    map[string]time.Duration
	// Failed holds an error for each aggregate that yielded no samples.
	Failed map[string]error
}

// readAggregates runs aggregates in one round trip, which is one transaction, and
// makes that trip for none as well: it shows that the database answers. Where one
// fails, the server drops the rest of that trip, and those behind it go in another:
// a missing table costs its own samples and one more round trip. The error is one of
// the connection, and all that is left has it.
func readAggregates(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, list []db.Aggregate) (result Aggregates, err error) {
	for {
		done, err := readBatch(ctx, pool, aggregateLimit(ctx, limit), list, &result)
		list = list[done:]
		if err != nil && (!result.Answered || ctx.Err() != nil || !db.IsServerError(err)) {
			for _, a := range list {
				result.fail(a.Name, err)
			}
			return result, err
		}
		if err != nil && len(list) > 0 {
			result.fail(list[0].Name, explain(err, readAdvice))
			list = list[1:]
		}
		if len(list) == 0 {
			return result, nil // where the commit fails nothing is lost: the batch only reads
		}
	}
}

// readBatch reads aggregates until one fails and returns how many did not.
func readBatch(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, list []db.Aggregate, result *Aggregates) (done int, err error) {
	platform := slices.IndexFunc(list, func(a db.Aggregate) bool { return a.Platform }) // the first of them
	queue := func(batch *pgx.Batch) {
		for i, a := range list {
			if i == platform {
				db.Queue(batch, func(q *db.Queries) { _, _ = q.EnterPlatformScope(ctx) })
			}
			batch.Queue(a.Timed())
		}
	}
	err = db.InOneTrip(ctx, pool, db.ReadOnly, db.BatchLimits(limit), queue, func(results pgx.BatchResults) error {
		result.Answered = true
		for i, a := range list {
			if i == platform {
				if _, err := results.Exec(); err != nil {
					return err
				}
			}
			samples, took, err := readSamples(results)
			if err != nil {
				return err
			}
			result.read(a.Name, took, samples...)
			done++
		}
		return nil
	})
	return done, err
}

// readSamples reads the rows of one aggregate, and how long the server took. A chart
// has no place for NaN, nor has JSON.
func readSamples(results pgx.BatchResults) (samples []spool.Sample, took time.Duration, err error) {
	rows, err := results.Query()
	if err != nil {
		return nil, 0, err
	}
	read, err := pgx.CollectRows(rows, pgx.RowToStructByName[db.TimedSamplesRow])
	for _, r := range read {
		if !math.IsNaN(r.Value) && !math.IsInf(r.Value, 0) {
			samples = append(samples, spool.Sample{Metric: r.MetricName, Service: r.Service, Tags: r.Tags, Value: r.Value})
		}
	}
	return samples, db.Took(read), err
}

// merge adds what a newer reading has brought. Of an aggregate that both have the newer
// counts: a cycle has each once.
func (a *Aggregates) merge(newer Aggregates) {
	if newer.StandbyAway != nil {
		a.StandbyAway = newer.StandbyAway
	}
	for name, err := range newer.Failed {
		a.fail(name, err)
	}
	for name, took := range newer.Took {
		a.read(name, took, newer.Samples[name]...)
	}
}

// all are the samples of all aggregates.
func (a *Aggregates) all() (samples []spool.Sample) {
	for _, name := range slices.Sorted(maps.Keys(a.Samples)) {
		samples = append(samples, a.Samples[name]...)
	}
	return samples
}

func (a *Aggregates) fail(name string, err error) {
	if a.Failed == nil {
		a.Failed = map[string]error{}
	}
	a.Failed[name] = err
}

func (a *Aggregates) read(name string, took time.Duration, samples ...spool.Sample) {
	if a.Took == nil {
		a.Samples, a.Took = map[string][]spool.Sample{}, map[string]time.Duration{}
	}
	a.Samples[name], a.Took[name] = samples, took
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

package collectors

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

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
	// Samples are those of each aggregate that was read.
	Samples map[string][]spool.Sample
	// Took is how long the call of each took that was read, or that the server ended for
	// its duration. Of one that failed otherwise it is not known.
	Took map[string]time.Duration
	// Failed holds an error for each aggregate that yielded no samples.
	Failed map[string]error
	// Unended are those of them for which the caller's deadline left no time.
	Unended []string
}

// readAggregates reads aggregates in one transaction, and makes one for none as well:
// it shows that the database answers. One that fails ends its transaction, and those
// behind it go in another: a missing table costs its own samples. Where the fault is
// the connection's, all that is left has it.
func readAggregates(ctx context.Context, client *db.Client, list []db.Aggregate) (result Aggregates) {
	for {
		limit := aggregateLimit(ctx, client.Limit)
		var began time.Time // the call under way
		err := client.ReadWithin(ctx, db.Limits{Statement: limit, Lock: limit / 4}, func(ctx context.Context, q *db.Queries) error {
			result.Answered, began = true, time.Now()
			return db.ReadAggregates(ctx, q, list, func(a db.Aggregate, samples []db.Sample, took time.Duration) {
				result.read(a.Name, took, finite(samples)...)
				list, began = list[1:], time.Now()
			})
		})
		switch {
		case len(list) == 0:
			return result // where the commit fails nothing is lost: it only reads
		case ctx.Err() != nil || !db.IsServerError(err):
			for _, a := range list {
				result.fail(a.Name, err)
				if !began.IsZero() && ctx.Err() != nil {
					result.Unended = append(result.Unended, a.Name)
				}
			}
			return result
		}
		result.fail(list[0].Name, explain(err, readAdvice))
		if db.IsTimeout(err) {
			result.took(list[0].Name, time.Since(began))
		}
		if list = list[1:]; len(list) == 0 {
			return result
		}
	}
}

// finite leaves out NaN and the infinities, for which a chart has no place.
func finite(rows []db.Sample) (samples []spool.Sample) {
	for _, r := range rows {
		if !math.IsNaN(r.Value) && !math.IsInf(r.Value, 0) {
			samples = append(samples, spool.Sample{Metric: r.MetricName, Service: r.Service, Tags: r.Tags, Value: r.Value})
		}
	}
	return samples
}

// merge adds what a newer reading has brought. Of an aggregate that both have the newer
// counts: a cycle has each once.
func (a *Aggregates) merge(newer Aggregates) {
	for name, err := range newer.Failed {
		a.fail(name, err)
	}
	for name, samples := range newer.Samples {
		a.read(name, newer.Took[name], samples...)
	}
}

// all are the samples of all aggregates.
func (a *Aggregates) all() (samples []spool.Sample) {
	for _, name := range slices.Sorted(maps.Keys(a.Samples)) {
		samples = append(samples, a.Samples[name]...)
	}
	return samples
}

func failedAll(list []db.Aggregate, err error) (a Aggregates) {
	for _, l := range list {
		a.fail(l.Name, err)
	}
	return a
}

func (a *Aggregates) fail(name string, err error) {
	if a.Failed == nil {
		a.Failed = map[string]error{}
	}
	a.Failed[name] = err
}

func (a *Aggregates) read(name string, took time.Duration, samples ...spool.Sample) {
	if a.Samples == nil {
		a.Samples = map[string][]spool.Sample{}
	}
	a.Samples[name] = samples
	a.took(name, took)
}

func (a *Aggregates) took(name string, took time.Duration) {
	if a.Took == nil {
		a.Took = map[string]time.Duration{}
	}
	a.Took[name] = took
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

package db

import (
	"context"
	"fmt"
	"time"
)

// Sample is a row of any aggregate.
type Sample struct {
	MetricName string
	Service    string
	Tags       string // a JSON object
	Value      float64
}

// Reader is a generated method that returns samples.
type Reader func(context.Context, *Queries) ([]Sample, error)

// Reads makes a Reader of a generated method. A query with other columns than a sample's
// does not compile.
func Reads[R ~struct {
	MetricName, Service, Tags string
	Value                     float64
}](query func(*Queries, context.Context) ([]R, error)) Reader {
	return func(ctx context.Context, q *Queries) ([]Sample, error) {
		rows, err := query(q, ctx)
		samples := make([]Sample, len(rows))
		for i, r := range rows {
			samples[i] = Sample(r)
		}
		return samples, err
	}
}

// Aggregate is a query of sql/queries/aggregates.sql, which alone decides which samples
// exist.
type Aggregate struct {
	Name string
	// Platform: it reads the platform's tables, in the role of EnterPlatformScope. If
	// row-level security still hides rows from that role, the query fails.
	Platform bool
	Every    time.Duration // its interval while the budget suffices; 0 is every cycle
	Read     Reader
}

// ReadAggregates reads aggregates in order, in a transaction that is not in the
// platform's scope yet. It calls done for each with the time of its call, which excludes
// earlier waits, such as for a pooler's connection. An error ends the transaction, and
// so ReadAggregates.
func ReadAggregates(ctx context.Context, q *Queries, list []Aggregate, done func(a Aggregate, samples []Sample, took time.Duration)) error {
	entered := false
	for _, a := range list {
		if a.Platform && !entered {
			if _, err := q.EnterPlatformScope(ctx); err != nil {
				return fmt.Errorf("take on a role: %w", err)
			}
			entered = true
		}
		began := time.Now()
		samples, err := a.Read(ctx, q)
		if err != nil {
			return err
		}
		done(a, samples, time.Since(began))
	}
	return nil
}

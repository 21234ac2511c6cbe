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

// Reads makes a reader of any generated method whose rows are samples: a query with
// other columns does not compile.
func Reads[R ~struct {
	MetricName string
	Service    string
	Tags       string
	Value      float64
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

// Aggregate is a query of sql/queries/aggregates.sql. The SQL alone decides which
// samples exist.
type Aggregate struct {
	Name string
	// Platform marks the tables of the platform, which are read in the role that
	// EnterPlatformScope takes on, past row-level security or not at all.
	Platform bool
	// Every is how often it is due while that is cheap; 0 is with every cycle.
	Every time.Duration

	// Read is the generated method.
	Read Reader
}

// ReadAggregates reads aggregates in their order, in a transaction that has no role
// yet, and hands each to done with how long its call took: what came before, such as
// the wait for a pooler's connection, is not its cost. It ends with the first that
// fails: the transaction is over.
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

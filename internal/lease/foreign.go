package lease

import (
	"context"
	"fmt"
	"time"

	"ops_worker/db"
)

// ForeignSample reports whether another than an ops-worker wrote a newest sample:
// every sample of ours moves the lease's last_cycle_at in its own transaction.
func ForeignSample(lease db.ReadLeaseRow, newest time.Time) bool {
	return newest.After(lease.LastCycleAt)
}

// ForeignCheck reports whether another than an ops-worker wrote a newest health
// row while nobody holds the lease: ours are written under it alone.
func ForeignCheck(lease db.ReadLeaseRow, newest time.Time) bool {
	return newest.After(lease.ExpiresAt.Add(time.Second)) // for the transaction that ended just before it did
}

// Foreign is the newest of what another than an ops-worker wrote, by the database's
// clock. What is not there has no age.
type Foreign struct {
	Sample, Check *time.Duration // how old it is
}

// FindForeign looks for it among the samples of these names and the health rows.
// While the lease is held it finds nothing: its holder is who writes.
func (p *Postgres) FindForeign(ctx context.Context, metricNames []string) (f Foreign, err error) {
	var writes db.NewestWritesRow
	var lease db.ReadLeaseRow
	err = p.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		// In this order: a lease that is taken meanwhile makes nothing foreign.
		if writes, err = NewestWrites(ctx, q, metricNames); err != nil {
			return fmt.Errorf("read the newest writes: %w", err)
		}
		if lease, err = q.ReadLease(ctx, db.LeaseName); err != nil && !db.IsNoRows(err) {
			return fmt.Errorf("read lease: %w", err)
		}
		return nil
	})
	if err != nil || lease.Held {
		return Foreign{}, err
	}
	age := func(at time.Time, foreign func(db.ReadLeaseRow, time.Time) bool) *time.Duration {
		if at.Unix() <= 0 || !foreign(lease, at) { // the epoch stands for none
			return nil
		}
		age := writes.Now.Sub(at)
		return &age
	}
	return Foreign{age(writes.NewestSample, ForeignSample), age(writes.NewestCheck, ForeignCheck)}, nil
}

// CheckAge is how old the newest health row is, by the database's clock.
func (p *Postgres) CheckAge(ctx context.Context) (age time.Duration, err error) {
	err = p.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		writes, err := NewestWrites(ctx, q, nil)
		age = writes.Now.Sub(writes.NewestCheck)
		return err
	})
	return age, err
}

// NewestWrites reads the newest sample of these names and the newest health row, but
// for those that a clock that was wrong has stamped ahead.
func NewestWrites(ctx context.Context, q *db.Queries, metricNames []string) (db.NewestWritesRow, error) {
	return q.NewestWrites(ctx, db.NewestWritesParams{MetricNames: metricNames, FutureSeconds: FutureLimit.Seconds()})
}

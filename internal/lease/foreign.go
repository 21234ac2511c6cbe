package lease

import (
	"context"
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

// NewestWrites reads the newest sample of these names and the newest health row, but
// for those that a clock that was wrong has stamped ahead.
func NewestWrites(ctx context.Context, q *db.Queries, metricNames []string) (db.NewestWritesRow, error) {
	return q.NewestWrites(ctx, db.NewestWritesParams{MetricNames: metricNames, FutureSeconds: FutureLimit.Seconds()})
}

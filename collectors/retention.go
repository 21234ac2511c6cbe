package collectors

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/backoff"
	"ops_worker/internal/lease"
)

const (
	retentionInterval = time.Hour
	retentionDeadline = 10 * time.Minute
	// retentionDelay lets a process that lives less than an hour expire samples
	// too, and a start not be slowed by it.
	retentionDelay = time.Minute
	// retentionPause between two batches leaves the database to the others.
	retentionPause = 200 * time.Millisecond
)

// retention removes the samples that are older than they are kept.
type retention struct {
	store Store
	lease *lease.Lease
	keep  time.Duration
	batch int
}

// A batch is small enough for some tens of milliseconds, halved where a database
// takes far longer, and doubled where it does not.
const (
	largestBatch  = 5000
	smallestBatch = 50
)

// newRetention keeps samples for keep.
func newRetention(store Store, lease *lease.Lease, keep time.Duration) *retention {
	return &retention{store: store, lease: lease, keep: keep, batch: largestBatch}
}

// cycle removes everything that has expired by now, in small batches. It leaves
// the database to the others for at least as long as it has used it.
func (r *retention) cycle(ctx context.Context) error {
	cutoff := r.lease.Now().Add(-r.keep)
	var total int64
	for more := true; more && ctx.Err() == nil; {
		begin := time.Now()
		removed, again, err := r.store.ExpireSamples(ctx, r.lease.Token(), cutoff, r.batch)
		switch {
		case db.IsTimeout(err) && r.batch > smallestBatch && ctx.Err() == nil:
			r.batch, more = max(r.batch/2, smallestBatch), true
		case err != nil:
			return err
		default:
			r.batch, more = min(r.batch*2, largestBatch), again
		}
		if total += removed; more {
			backoff.Wait(ctx, max(retentionPause, time.Since(begin)))
		}
	}
	if total > 0 {
		zerolog.Ctx(ctx).Info().Int64("removed", total).Time("cutoff", cutoff).Msg("expired samples removed")
	}
	return nil
}

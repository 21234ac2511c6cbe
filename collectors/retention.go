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
	// retentionDelay is before the first cycle: short, so that a process that restarts
	// within the hour expires samples too, but not while it starts.
	retentionDelay = time.Minute
	// retentionPause is the least pause between two batches.
	retentionPause = 200 * time.Millisecond

	// A batch takes some tens of milliseconds. It is halved when it times out, and
	// doubled again when it does not.
	largestBatch  = 5000
	smallestBatch = 50
)

// retention removes the samples that are older than keep.
type retention struct {
	store Store
	lease *lease.Lease
	keep  time.Duration
	batch int
}

func newRetention(store Store, lease *lease.Lease, keep time.Duration) *retention {
	return &retention{store: store, lease: lease, keep: keep, batch: largestBatch}
}

// cycle removes everything that has expired by now. It pauses after each batch for at
// least as long as the batch took.
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

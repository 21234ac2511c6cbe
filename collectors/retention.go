package collectors

import (
	"context"
	"time"

	"github.com/rs/zerolog"
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

// Retention removes the samples that are older than they are kept.
type Retention struct {
	store Store
	lease *Lease
	keep  time.Duration
	batch int
}

// A batch is small enough for some tens of milliseconds, and halved where a
// database takes far longer.
const (
	largestBatch  = 5000
	smallestBatch = 50
)

// NewRetention keeps samples for keep.
func NewRetention(store Store, lease *Lease, keep time.Duration) *Retention {
	return &Retention{store: store, lease: lease, keep: keep, batch: largestBatch}
}

// Cycle removes everything that has expired by now, in small batches.
func (r *Retention) Cycle(ctx context.Context) error {
	cutoff := r.lease.Now().Add(-r.keep)
	var total int64
	for more := true; more && ctx.Err() == nil; {
		var removed int64
		var err error
		removed, more, err = r.store.ExpireSamples(ctx, r.lease.Token(), cutoff, r.batch)
		if isTimeout(err) && r.batch > smallestBatch {
			r.batch, more = max(r.batch/2, smallestBatch), true
		} else if err != nil {
			return err
		}
		if total += removed; more {
			wait(ctx, retentionPause)
		}
	}
	if total > 0 {
		zerolog.Ctx(ctx).Info().Int64("removed", total).Time("cutoff", cutoff).Msg("expired samples removed")
	}
	return nil
}

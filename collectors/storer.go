package collectors

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	exponential "github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/backoff"
	"ops_worker/internal/lease"
	"ops_worker/internal/spool"
)

const (
	// storeBatch bounds the samples of one statement, which takes some tens of
	// milliseconds. On a slower database it is halved.
	storeBatch = 1000
	// longestStoreBackOff bounds the back-off after the database has refused the
	// samples. A connection is tried in every cycle.
	longestStoreBackOff = 15 * time.Second
)

// storer appends the cycles of a queue to system_metrics.
type storer struct {
	store    Store
	lease    *lease.Lease
	queue    *queue
	observer Observer

	batch int // samples a statement, now
	// recheck: compare with stored samples before inserting. An earlier process, or an
	// attempt whose outcome is unknown, may have stored them.
	recheck bool
	refused error // by the database, at the newest store
	retryAt time.Time
	backOff *exponential.ExponentialBackOff

	storedAt atomic.Pointer[time.Time] // when a store last succeeded
}

func newStorer(store Store, lease *lease.Lease, queue *queue, observer Observer) *storer {
	waiting, _ := queue.waiting()
	return &storer{store: store, lease: lease, queue: queue, observer: observer, batch: storeBatch, recheck: waiting > 0,
		backOff: backoff.New(longestStoreBackOff)}
}

// cycle stores all cycles that wait, oldest first. Those that cannot be stored wait,
// whatever the reason: an operator can mend what the table refuses.
func (s *storer) cycle(ctx context.Context) error {
	if time.Now().Before(s.retryAt) {
		return s.refused
	}
	waiting, _ := s.queue.waiting()
	log, samples := zerolog.Ctx(ctx), 0
	for {
		batch, through := s.queue.oldest(s.batch)
		if len(batch) == 0 {
			break
		}
		stored, err := s.append(ctx, batch)
		if db.IsTimeout(err) && len(batch) > 1 && ctx.Err() == nil {
			s.batch = max(countSamples(batch)/2, 1)
			continue
		}
		if err != nil {
			return s.failed(ctx, err)
		}
		s.batch = min(s.batch*2, storeBatch)
		samples += stored
		s.observer.Stored(stored)
		s.queue.remove(*log, through)
	}
	if waiting > 1 {
		// These may be fewer than the cycles have: an earlier attempt, or another
		// replica, may have stored that time already.
		log.Info().Int("cycles", waiting-1).Int("samples_stored", samples).Msg("buffered cycles caught up")
	}
	s.recheck = false
	s.backOff.Reset()
	s.storedAt.Store(new(time.Now()))
	return nil
}

// append sends one statement.
func (s *storer) append(ctx context.Context, batch []spool.Cycle) (stored int, err error) {
	sent := time.Now()
	stored, now, err := s.store.AppendCycles(ctx, s.lease.Token(), batch, s.recheck)
	if err == nil {
		s.lease.Renewed(now, sent)
	} else {
		s.recheck = true
	}
	zerolog.Ctx(ctx).Debug().Int("cycles", len(batch)).Int("samples", stored).Dur("duration_ms", time.Since(sent)).Err(err).Msg("cycles stored")
	return stored, err
}

// failed takes the error of a store, and returns it with its cause.
func (s *storer) failed(ctx context.Context, err error) error {
	if errors.Is(err, lease.ErrLost) {
		s.lease.RenewNow()
	} else if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	err = fmt.Errorf("store samples, cycles are buffered: %w", err)
	if db.IsServerError(err) {
		s.refused, s.retryAt = err, time.Now().Add(s.backOff.NextBackOff())
	}
	return err
}

// newestStore is when a store last succeeded; zero before the first.
func (s *storer) newestStore() time.Time {
	if at := s.storedAt.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

func countSamples(cycles []spool.Cycle) int {
	n := 0
	for _, c := range cycles {
		n += len(c.Samples)
	}
	return n
}

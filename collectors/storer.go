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

// A store statement takes at most this many samples: some tens of milliseconds.
// Where the database is slower, it takes fewer.
const storeBatch = 1000

// longestStoreBackOff bounds how long what the database refuses is not sent again. A
// connection is tried in every cycle.
const longestStoreBackOff = 15 * time.Second

// storer appends the cycles of a queue to system_metrics.
type storer struct {
	store    Store
	lease    *lease.Lease
	queue    *queue
	observer Observer

	batch int // how many samples a statement takes now
	// recheck is that what waits may stand already: an earlier process has stored it,
	// or an attempt whose outcome is unknown.
	recheck bool
	// refused is what the database itself has refused the newest store with, which is
	// not sent again before retryAt.
	refused error
	retryAt time.Time
	backOff *exponential.ExponentialBackOff

	storedAt atomic.Pointer[time.Time] // when a store last succeeded
}

func newStorer(store Store, lease *lease.Lease, queue *queue, observer Observer) *storer {
	waiting, _ := queue.waiting()
	return &storer{store: store, lease: lease, queue: queue, observer: observer, batch: storeBatch, recheck: waiting > 0,
		backOff: backoff.New(longestStoreBackOff)}
}

// cycle stores what waits, oldest first, until nothing does. What cannot be stored
// waits, whatever the reason: what the table refuses, an operator can mend.
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
			return s.explain(ctx, err)
		}
		s.batch = min(s.batch*2, storeBatch)
		samples += stored
		s.observer.Stored(stored)
		s.queue.remove(*log, through)
	}
	if waiting > 1 {
		// Fewer samples than the cycles have: an earlier attempt, or another
		// replica, has stored that time already.
		log.Info().Int("cycles", waiting-1).Int("samples_stored", samples).Msg("buffered cycles caught up")
	}
	s.recheck = false
	s.backOff.Reset()
	now := time.Now()
	s.storedAt.Store(&now)
	return nil
}

// append sends one store.
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

func (s *storer) explain(ctx context.Context, err error) error {
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

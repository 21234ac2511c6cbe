// Package backoff is how long to wait: before something is tried again, and for what may
// hang.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"

	exponential "github.com/cenkalti/backoff/v5"
)

// New is a back-off with jitter that never gives up; no wait is longer than
// longest.
func New(longest time.Duration) *exponential.ExponentialBackOff {
	b := exponential.NewExponentialBackOff()
	b.MaxInterval = time.Duration(float64(longest) / (1 + b.RandomizationFactor))
	b.InitialInterval = min(200*time.Millisecond, b.MaxInterval)
	b.Reset()
	return b
}

// Jittered is at most d, and at least two thirds of it, so that replicas do not
// move in step.
func Jittered(d time.Duration) time.Duration { return d - rand.N(d/3+1) }

// Wait returns after d, or as soon as ctx is done.
func Wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// AtMost waits until end has returned, but no longer than limit: what hangs goes on
// without anybody.
func AtMost(limit time.Duration, end func()) {
	ctx, ended := context.WithCancel(context.Background())
	go func() {
		defer ended()
		end()
	}()
	Wait(ctx, limit)
}

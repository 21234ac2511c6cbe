// Package backoff waits: before a retry, and for something that may hang.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"

	exponential "github.com/cenkalti/backoff/v5"
)

// New is an exponential back-off with jitter that never gives up. No wait is longer than
// longest.
func New(longest time.Duration) *exponential.ExponentialBackOff {
	b := exponential.NewExponentialBackOff()
	b.MaxInterval = time.Duration(float64(longest) / (1 + b.RandomizationFactor))
	b.InitialInterval = min(200*time.Millisecond, b.MaxInterval)
	b.Reset()
	return b
}

// Jittered is between two thirds of d and d, so that replicas do not act in step.
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

// AtMost calls end, and waits for it no longer than limit. After that, end goes on in
// the background.
func AtMost(limit time.Duration, end func()) {
	ctx, ended := context.WithCancel(context.Background())
	go func() {
		defer ended()
		end()
	}()
	Wait(ctx, limit)
}

package collectors

import (
	"sync"
	"time"

	exponential "github.com/cenkalti/backoff/v5"

	"ops_worker/internal/backoff"
)

// backoffGate keeps what has failed from being tried again before its back-off
// is over.
type backoffGate struct {
	mu      sync.Mutex
	backoff *exponential.ExponentialBackOff
	err     error // of the newest attempt
	until   time.Time
}

// newBackoffGate makes a gate that is open. It never shuts for longer than
// longest.
func newBackoffGate(longest time.Duration) *backoffGate {
	return &backoffGate{backoff: backoff.New(longest)}
}

// shut returns the error of the newest attempt while the back-off lasts, and nil
// after it.
func (g *backoffGate) shut() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Now().Before(g.until) {
		return g.err
	}
	return nil
}

// failed shuts the gate, for longer each time.
func (g *backoffGate) failed(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.until = err, time.Now().Add(g.backoff.NextBackOff())
}

// openAfter ends a back-off whose error is of this kind, and keeps its length for
// the next one.
func (g *backoffGate) openAfter(kind func(error) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil && kind(g.err) {
		g.until = time.Time{}
	}
}

// succeeded ends a back-off for good.
func (g *backoffGate) succeeded() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err, g.until = nil, time.Time{}
	g.backoff.Reset()
}

package notify

import (
	"context"
	"crypto/x509"
	"net/http"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

// beatInterval is how far apart two GETs are, and how old a store may be that leads to one.
const beatInterval = time.Minute

// Heartbeat tells a dead man's switch that the worker stores: the switch raises the
// alarm when nothing comes. Through a nil Heartbeat nobody is told.
type Heartbeat struct {
	receiver receiver
	log      zerolog.Logger
	wake     chan struct{}

	mu     sync.Mutex
	stored time.Time
}

// NewHeartbeat prepares a heartbeat to a URL; Run makes it send. Without cas the
// system's are trusted.
func NewHeartbeat(url string, cas *x509.CertPool, log zerolog.Logger) *Heartbeat {
	return newHeartbeat(url, newTransport(cas), log)
}

func newHeartbeat(url string, transport http.RoundTripper, log zerolog.Logger) *Heartbeat {
	return &Heartbeat{receiver: newReceiver("HEARTBEAT_URL", url, transport), log: log, wake: make(chan struct{}, 1)}
}

// Stored notes that a store has succeeded. It never waits.
func (h *Heartbeat) Stored() {
	if h == nil {
		return
	}
	h.mu.Lock()
	h.stored = time.Now()
	h.mu.Unlock()
	wakeUp(h.wake)
}

// fresh is whether a store has succeeded within the last minute.
func (h *Heartbeat) fresh() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.stored) < beatInterval
}

// Run sends a GET after a store, at most one a minute, until ctx is done.
func (h *Heartbeat) Run(ctx context.Context) {
	if h == nil {
		return
	}
	var faults faultlog.Log
	retry := newRetry()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		}
		// Only a store that is fresh counts, since a store may lie before the newest GET.
		for ctx.Err() == nil && h.fresh() {
			err := h.receiver.request(ctx, http.MethodGet, nil)
			if ctx.Err() != nil {
				return
			}
			faults.Observe(h.log, err, "heartbeat cannot be sent", "heartbeat is sent again")
			if err == nil {
				retry.Reset()
				backoff.Wait(ctx, beatInterval)
				break
			}
			backoff.Wait(ctx, retry.NextBackOff())
		}
	}
}

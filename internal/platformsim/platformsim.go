// Package platformsim plays the platform around the worker, where there is none: services that answer GET /health in
// the platform's shape, and rows in its tables. `make run` and compose.yaml use it; the worker does not.
package platformsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// shutdownTimeout is how long a request in flight may take when a service stops.
const shutdownTimeout = 3 * time.Second

// counters computes a service's counters from the seconds that it has run.
type counters func(seconds float64) map[string]int64

// kinds are the services that can be played: their counters, and the field that tells when they last did something.
var kinds = map[string]struct {
	counters counters
	activity string
}{
	"ingest":     {ingestCounters, "last_write_at"},
	"evaluator":  {evaluatorCounters, "last_evaluation_at"},
	"dispatcher": {dispatcherCounters, "last_dispatch_at"},
	"delivery":   {deliveryCounters, "last_delivery_at"},
}

// Names are the services that New knows, sorted.
func Names() []string {
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Service is one simulated service, an http.Handler. Its counters are a function of the time since New, so that two
// requests at the same moment see the same numbers and no total ever falls.
type Service struct {
	name    string
	started time.Time
	outage  atomic.Bool
	mux     *http.ServeMux
}

// New makes a healthy service of one of Names.
func New(name string) (*Service, error) {
	if _, ok := kinds[name]; !ok {
		return nil, fmt.Errorf("unknown service %q: want one of %s", name, strings.Join(Names(), ", "))
	}
	s := &Service{name: name, started: time.Now(), mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /health", s.health)
	return s, nil
}

// Name is the name that New was given.
func (s *Service) Name() string { return s.name }

// SetOutage begins or ends an outage, in which the service answers 503.
func (s *Service) SetOutage(out bool) { s.outage.Store(out) }

// ServeHTTP answers GET /health; everything else is 404 or 405.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Service) health(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	kind := kinds[s.name]
	status, answer := http.StatusOK, map[string]any{
		"status":      "healthy",
		"counters":    kind.counters(now.Sub(s.started).Seconds()),
		kind.activity: now.UTC().Format(time.RFC3339Nano),
	}
	if s.outage.Load() {
		status, answer = http.StatusServiceUnavailable, map[string]any{"status": "unhealthy"}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(answer)
}

// Serve answers requests until the context ends, then finishes those in flight.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return fmt.Errorf("serve: %w", err)
	}
	// Serve returns at the start of a shutdown; its end is what counts.
	if err := <-stopped; err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

// grown is how much a total has grown after some seconds at perSecond on average, with a slow swell of 90 s and a ripple
// of 7 s over it. It is the integral of a rate that is always positive, and so never falls.
func grown(perSecond, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	wave := func(share, period float64) float64 {
		return share * period / (2 * math.Pi) * (1 - math.Cos(2*math.Pi*seconds/period))
	}
	return perSecond * (seconds + wave(0.4, 90) + wave(0.1, 7))
}

// behind is the moment up to which a queue has been worked off: its lag wanders between 0.05 s and 0.35 s.
func behind(seconds float64) float64 {
	return seconds - 0.2 - 0.15*math.Sin(2*math.Pi*seconds/40)
}

func ingestCounters(seconds float64) map[string]int64 {
	const perSecond = 120
	received := int64(grown(perSecond, seconds))
	done := int64(grown(perSecond, behind(seconds)))
	rejected := done / 500
	return map[string]int64{
		"messages_received": received,
		"messages_written":  done - rejected,
		"messages_rejected": rejected,
		"queue_depth":       received - done,
	}
}

func evaluatorCounters(seconds float64) map[string]int64 {
	evaluated := int64(grown(40, seconds))
	return map[string]int64{"rules_evaluated": evaluated, "alerts_created": evaluated / 800}
}

func dispatcherCounters(seconds float64) map[string]int64 {
	processed := int64(grown(0.5, seconds))
	return map[string]int64{"alerts_processed": processed, "routes_matched": processed * 3 / 2}
}

func deliveryCounters(seconds float64) map[string]int64 {
	const perSecond = 8
	queued := int64(grown(perSecond, seconds))
	done := int64(grown(perSecond, behind(seconds)))
	failed := done / 40
	return map[string]int64{"jobs_succeeded": done - failed, "jobs_failed": failed, "jobs_pending": queued - done}
}

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

	"ops_worker/internal/config"
)

// shutdownTimeout is how long a request in flight may take when a service stops.
const shutdownTimeout = 3 * time.Second

// played are the services that can be played: those of the platform that report counters.
func played() []config.Service {
	return slices.DeleteFunc(config.PlatformServices(), func(s config.Service) bool { return s.Kind != config.ProbeCounters })
}

// Names are the services that New knows, sorted.
func Names() []string {
	var names []string
	for _, s := range played() {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return names
}

// Service is one simulated service, an http.Handler. Its counters are a function of the time since New, so that two
// requests at the same moment see the same numbers and no total ever falls.
type Service struct {
	config.Service
	started time.Time
	outage  atomic.Bool
	mux     *http.ServeMux
}

// New makes a healthy service of one of Names.
func New(name string) (*Service, error) {
	services := played()
	i := slices.IndexFunc(services, func(s config.Service) bool { return s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("unknown service %q: want one of %s", name, strings.Join(Names(), ", "))
	}
	s := &Service{Service: services[i], started: time.Now(), mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /health", s.health)
	return s, nil
}

// SetOutage begins or ends an outage, in which the service answers 503.
func (s *Service) SetOutage(out bool) { s.outage.Store(out) }

// ServeHTTP answers GET /health; everything else is 404 or 405.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Service) health(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	status, answer := http.StatusOK, map[string]any{
		"status":           "healthy",
		"counters":         numbers(s.Counters, now.Sub(s.started).Seconds()),
		"last_activity_at": now.UTC().Format(time.RFC3339Nano),
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

const (
	perSecond = 120 // of what arrives
	oneIn     = 500 // is what the last total counts, such as rejected messages
)

// numbers are what a service reports after some seconds. Its first total counts what arrives, and the others what seldom
// happens. Where something waits, which is a gauge, those between the first and the last count what was worked off.
func numbers(counters []config.Counter, seconds float64) map[string]int64 {
	arrived, done := int64(grown(perSecond, seconds)), int64(grown(perSecond, behind(seconds)))
	values := make(map[string]int64, len(counters))
	var totals []string
	waits := false
	for _, c := range counters {
		if c.Gauge {
			waits = true
			values[c.Name] = arrived - done
		} else {
			totals = append(totals, c.Name)
		}
	}
	for i, name := range totals {
		switch {
		case i == 0:
			values[name] = arrived
		case i == len(totals)-1 || !waits:
			values[name] = done / oneIn
		default:
			values[name] = done - done/oneIn
		}
	}
	return values
}

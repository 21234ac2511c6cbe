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
	for method, out := range map[string]bool{http.MethodPost: true, http.MethodDelete: false} {
		s.mux.HandleFunc(method+" /outage", func(w http.ResponseWriter, _ *http.Request) {
			s.SetOutage(out)
			w.WriteHeader(http.StatusNoContent)
		})
	}
	return s, nil
}

// SetOutage begins or ends an outage, in which the service answers 503.
func (s *Service) SetOutage(out bool) { s.outage.Store(out) }

// ServeHTTP answers GET /health; POST /outage begins an outage, and DELETE /outage ends it. Everything else is 404 or 405.
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

// Serve answers requests until the context ends.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// numbers are what a service reports after some seconds: its first total grows by 120 a second, with a slow swell, each
// further one a twentieth as fast as the one before, and a gauge is what waits.
func numbers(counters []config.Counter, seconds float64) map[string]int64 {
	swell := math.Sin(2 * math.Pi * seconds / 90)
	perSecond := 120.0
	values := make(map[string]int64, len(counters))
	for _, c := range counters {
		if c.Gauge {
			values[c.Name] = int64(20 + 15*swell)
			continue
		}
		values[c.Name] = int64(perSecond * (seconds + 5*swell)) // which never falls
		perSecond /= 20
	}
	return values
}

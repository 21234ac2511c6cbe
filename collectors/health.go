package collectors

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// probeTimeout bounds one exchange with a service, from the look-up of its name
// to the last byte of its answer.
const probeTimeout = 5 * time.Second

// Observation is a service and what its probe brought back.
type Observation struct {
	Service string
	Reading
}

// rowStatus is service_health.status, which knows two words.
func (o Observation) rowStatus() string {
	if o.Status == Healthy {
		return "healthy"
	}
	return "unhealthy"
}

// latencyMS is the latency in whole milliseconds, -1 when nothing answered.
func (o Observation) latencyMS() int32 {
	if o.Latency <= 0 {
		return -1
	}
	return int32(min(o.Latency.Round(time.Millisecond).Milliseconds(), 1<<30))
}

// details is service_health.details; a key without a value is left out.
func (o Observation) details() (string, error) {
	d := struct {
		Status     Status             `json:"status"`
		LatencyMS  *int32             `json:"latency_ms,omitempty"`
		HTTPStatus int                `json:"http_status,omitempty"`
		Counters   map[string]float64 `json:"counters,omitempty"`
		Error      string             `json:"error,omitempty"`
	}{Status: o.Status, HTTPStatus: o.HTTPStatus, Counters: o.Counters, Error: o.Err}
	if ms := o.latencyMS(); ms >= 0 {
		d.LatencyMS = &ms
	}
	text, err := json.Marshal(d)
	return string(text), err
}

// Observe probes all services at once, each for at most timeout, and returns
// what they answered in their order. None waits for another: how many there may
// be is bounded by the settings.
func Observe(ctx context.Context, services []Service, timeout time.Duration) []Observation {
	observations := make([]Observation, len(services))
	var group errgroup.Group
	for i, s := range services {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			defer recovered(ctx, func(err error) {
				observations[i] = Observation{Service: s.Name, Reading: Reading{Status: Unknown, Err: err.Error()}}
			})
			observations[i] = Observation{Service: s.Name, Reading: s.Probe(ctx)}
			return nil
		})
	}
	_ = group.Wait() // a probe has no error: what goes wrong is its reading
	return observations
}

// HealthMonitor keeps service_health and the system alerts up to date.
type HealthMonitor struct {
	services []Service
	store    Store
	lease    *Lease
	alerts   bool
	timeout  time.Duration

	last []Observation
	// synced is what the alerts were last brought in line with, and under which
	// lease: another replica, or an operator in its time, may have changed them.
	synced      []Observation
	syncedToken Token
}

// NewHealthMonitor makes a monitor of services that turns every interval, with
// or without system alerts.
func NewHealthMonitor(services []Service, store Store, lease *Lease, interval time.Duration, alerts bool) *HealthMonitor {
	return &HealthMonitor{services: services, store: store, lease: lease, alerts: alerts, timeout: min(probeTimeout, interval*6/10)}
}

// Cycle probes every service, then writes what they answered, then the alerts:
// one that cannot be written does not cost the health rows.
func (m *HealthMonitor) Cycle(ctx context.Context) error {
	observations := Observe(ctx, m.services, m.timeout)
	m.remember(ctx, observations)

	token := m.lease.Token()
	if err := m.store.SaveHealth(ctx, token, m.lease.Now(), observations); err != nil {
		return fmt.Errorf("save health: %w", err)
	}
	if !m.alerts {
		return nil
	}
	log := zerolog.Ctx(ctx)
	changed := token != m.syncedToken || !slices.EqualFunc(observations, m.synced, func(a, b Observation) bool { return a.Status == b.Status })
	opened, closed, err := m.store.SyncAlerts(ctx, token, observations, changed)
	if err != nil {
		m.syncedToken = Token{}
		return fmt.Errorf("health is saved, system alerts are not: %w", err)
	}
	m.synced, m.syncedToken = observations, token
	for _, service := range opened {
		log.Warn().Str("monitored", service).Msg("system alert opened")
	}
	for _, service := range closed {
		log.Info().Str("monitored", service).Msg("system alert closed")
	}
	return nil
}

// Last returns the newest observations; not while a cycle runs.
func (m *HealthMonitor) Last() []Observation { return m.last }

// remember keeps the observations and logs the services that changed.
func (m *HealthMonitor) remember(ctx context.Context, observations []Observation) {
	for i, o := range observations {
		before := Healthy
		if m.last != nil {
			before = m.last[i].Status
		}
		if o.Status == before {
			continue
		}
		event := zerolog.Ctx(ctx).Warn()
		if o.Status == Healthy {
			event = zerolog.Ctx(ctx).Info()
		}
		event.Str("monitored", o.Service).Str("status", string(o.Status)).Str("was", string(before)).Str("reason", o.Reason()).Msg("service changed")
	}
	m.last = observations
}

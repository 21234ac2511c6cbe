package collectors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
)

// healthMonitor keeps service_health and the system alerts up to date.
type healthMonitor struct {
	targets   []probe.Target
	store     Store
	lease     *lease.Lease
	alerts    *alertKeeper
	latencies *latencies // stored by the metrics collector
	observer  Observer
	timeout   time.Duration // of a probe

	last   []probe.Observation
	warned map[string]time.Time // of a certificate, by service
}

// cycle probes every service, then saves the results.
func (m *healthMonitor) cycle(ctx context.Context) error {
	m.check(ctx)
	return m.save(ctx)
}

// check probes every service, and logs each change.
func (m *healthMonitor) check(ctx context.Context) {
	observations := probe.Observe(ctx, m.targets, m.timeout)
	m.observer.Probed(observations)
	m.latencies.keep(m.lease.Token(), observations)
	m.logChanges(ctx, observations)
	m.logCertificates(ctx, observations, time.Now())
	m.last = observations
}

// save writes the health rows of the newest check, and the alerts. If the database
// refuses the rows, the alerts are still written; after a lost lease or connection
// neither can be, and what changes meanwhile is kept.
func (m *healthMonitor) save(ctx context.Context) error {
	token, at := m.lease.Token(), m.lease.Now().Truncate(time.Microsecond) // which the database keeps
	resumeErr := m.alerts.resume(ctx, token)
	streaks := m.alerts.judge.count(at, m.last)
	err := resumeErr
	if !isAway(err) {
		err = errors.Join(err, m.store.SaveHealth(ctx, token, at, m.last, streaks))
	}
	if m.alerts.enabled && !errors.Is(err, lease.ErrLost) {
		return errors.Join(err, m.alerts.cycle(ctx, token, at, m.last, isAway(err)))
	}
	return err
}

// isAway reports whether the database did not answer.
func isAway(err error) bool {
	return err != nil && !db.IsServerError(err) && !errors.Is(err, lease.ErrLost)
}

// logChanges logs the services that changed since the last check.
func (m *healthMonitor) logChanges(ctx context.Context, observations []probe.Observation) {
	for i, o := range observations {
		was, wasUp := probe.Healthy, true // expected at the first check
		if m.last != nil {
			was, wasUp = m.last[i].Status, m.last[i].Up()
		}
		if o.Status == was && o.Up() == wasUp {
			continue
		}
		event := zerolog.Ctx(ctx).Warn()
		if o.Status == probe.Healthy {
			event = zerolog.Ctx(ctx).Info()
		}
		if m.last != nil {
			event = event.Str("was", string(was))
		}
		event.Str("monitored", o.Service).Str("status", string(o.Status)).Str("reason", o.Reason()).Msg("service changed")
	}
}

// logCertificates warns of each certificate that ends soon, once a day.
func (m *healthMonitor) logCertificates(ctx context.Context, observations []probe.Observation, now time.Time) {
	for _, o := range observations {
		notice := probe.CertificateNotice(o.CertificateEnds, now)
		if notice == "" || now.Sub(m.warned[o.Service]) < 24*time.Hour {
			continue
		}
		m.warned[o.Service] = now
		zerolog.Ctx(ctx).Warn().Str("monitored", o.Service).Str("reason", notice).Msg("certificate ends soon")
	}
}

// rowStatus is service_health.status, which has two values.
func rowStatus(o probe.Observation) string {
	if o.Up() {
		return "healthy"
	}
	return "unhealthy"
}

// latencyMS is the latency in whole milliseconds, -1 when nothing answered.
func latencyMS(o probe.Observation) int32 {
	if o.Latency <= 0 {
		return -1
	}
	return int32(min(o.Latency.Round(time.Millisecond).Milliseconds(), 1<<30))
}

// readingDetails are service_health.details, and of an alert; a key without a value is
// left out.
type readingDetails struct {
	Service    string             `json:"service,omitempty"` // of an alert alone, as the next three
	Kind       string             `json:"kind,omitempty"`
	Reason     string             `json:"reason,omitempty"`
	Since      string             `json:"since,omitempty"`
	Status     probe.Status       `json:"status"`
	LatencyMS  *int32             `json:"latency_ms,omitempty"`
	HTTPStatus int                `json:"http_status,omitempty"`
	Counters   map[string]float64 `json:"counters,omitempty"`
	Error      string             `json:"error,omitempty"`
	Ends       string             `json:"certificate_ends,omitempty"`
	Instances  int                `json:"instances,omitempty"`
	Unhealthy  map[string]string  `json:"unhealthy_instances,omitempty"`
}

func detailsOf(o probe.Observation) readingDetails {
	d := readingDetails{Status: o.Status, HTTPStatus: o.HTTPStatus, Counters: o.Counters, Error: o.Err}
	if len(o.Instances) > 1 {
		d.Instances, d.Unhealthy = len(o.Instances), unhealthyInstances(o.Instances)
	}
	if !o.CertificateEnds.IsZero() {
		d.Ends = o.CertificateEnds.UTC().Format(time.RFC3339)
	}
	if ms := latencyMS(o); ms >= 0 {
		d.LatencyMS = &ms
	}
	return d
}

// unhealthyInstances are the reasons by address. If an address repeats, its later ones
// get the instance's number.
func unhealthyInstances(instances []probe.InstanceReading) map[string]string {
	reasons := map[string]string{}
	for n, i := range instances {
		if i.Status == probe.Healthy {
			continue
		}
		name := i.Address
		if _, taken := reasons[name]; taken {
			name = fmt.Sprintf("%s #%d", i.Address, n+1)
		}
		reasons[name] = i.Reason()
	}
	return reasons
}

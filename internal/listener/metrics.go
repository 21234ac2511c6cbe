package listener

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"ops_worker/internal/probe"
)

// Source is what a worker is asked at every scrape, and what does not change.
type Source struct {
	Version, Commit string
	// Services are those that are asked, so that the series are bounded.
	Services []string
	// Budget is the share of wall time for all aggregates.
	Budget float64
	// The names of the loops: a metrics cycle is gathered in one and stored in another.
	Health, Metrics, Store string
	// Lease tells whether this process leads, and the newest epoch that it led.
	Lease func() (leading bool, epoch int64)
	// Buffer tells how many cycles wait to be stored, and for how long the oldest.
	Buffer func() (cycles int, age time.Duration)
	// Pool tells how many connections to the database there are, and how many idle.
	Pool func() (size, idle int)
}

// Metrics are what /metrics shows. The methods are those of an observer of the worker.
type Metrics struct {
	source   Source
	set      *metrics.Set
	gathered chan time.Duration // how long the gathering took that waits for its store

	mu    sync.Mutex
	found map[string]probe.Reading // the newest, by service
}

// The operations that the platform's dashboards look for, and its buckets, in seconds.
const (
	healthWork  = "health_monitor"
	metricsWork = "metrics_collector"
)

var buckets = []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// NewMetrics makes the metrics of a worker.
func NewMetrics(source Source) *Metrics {
	metrics.ExposeMetadata(true)
	m := &Metrics{source: source, set: metrics.NewSet(), gathered: make(chan time.Duration, 1), found: map[string]probe.Reading{}}
	m.set.NewGauge(`pulse_db_pool_size{service="ops_worker"}`, func() float64 { size, _ := source.Pool(); return float64(size) })
	m.set.NewGauge(`pulse_db_pool_free{service="ops_worker"}`, func() float64 { _, idle := source.Pool(); return float64(idle) })
	m.set.NewGauge(`ops_worker_lease_held`, func() float64 { leading, _ := source.Lease(); return float64(oneIf(leading)) })
	m.set.NewGauge(`ops_worker_lease_epoch`, func() float64 { _, epoch := source.Lease(); return float64(epoch) })
	m.set.NewGauge(`ops_worker_buffered_cycles`, func() float64 { cycles, _ := source.Buffer(); return float64(cycles) })
	m.set.NewGauge(`ops_worker_buffer_age_seconds`, func() float64 { _, age := source.Buffer(); return age.Seconds() })
	m.set.NewGauge(`ops_worker_aggregate_budget_ratio`, func() float64 { return source.Budget })
	m.set.NewGauge(fmt.Sprintf(`ops_worker_build_info{commit=%q,goversion=%q,version=%q}`, source.Commit, runtime.Version(), source.Version),
		func() float64 { return 1 })
	m.set.RegisterMetricsWriter(m.writeStates)
	// A series that is not there yet cannot be told from one that is gone.
	for _, loop := range []string{source.Health, source.Metrics, source.Store} {
		m.countCycle(loop, 0, 0, 0)
	}
	for _, operation := range []string{healthWork, metricsWork} {
		m.processing(operation)
	}
	for _, name := range source.Services {
		m.probes(name)
	}
	m.aggregates()
	m.Stored(0)
	m.Dropped(0)
	m.Superseded(0)
	return m
}

func (m *Metrics) histogram(name string) *metrics.PrometheusHistogram {
	return m.set.GetOrCreatePrometheusHistogramExt(name, buckets)
}

func (m *Metrics) processing(operation string) *metrics.PrometheusHistogram {
	return m.histogram(fmt.Sprintf(`pulse_processing_duration_seconds{operation=%q,service="ops_worker"}`, operation))
}

func (m *Metrics) probes(service string) *metrics.PrometheusHistogram {
	return m.histogram(fmt.Sprintf(`ops_worker_probe_duration_seconds{monitored=%q}`, service))
}

func (m *Metrics) aggregates() *metrics.PrometheusHistogram {
	return m.histogram(`ops_worker_aggregates_duration_seconds`)
}

func (m *Metrics) countCycle(loop string, cycles, failures, skipped int) {
	m.set.GetOrCreateCounter(fmt.Sprintf(`ops_worker_cycles_total{loop=%q}`, loop)).Add(cycles)
	m.set.GetOrCreateCounter(fmt.Sprintf(`ops_worker_cycle_failures_total{loop=%q}`, loop)).Add(failures)
	m.set.GetOrCreateCounter(fmt.Sprintf(`ops_worker_skipped_ticks_total{loop=%q}`, loop)).Add(skipped)
}

// CycleEnded counts a cycle.
func (m *Metrics) CycleEnded(loop string, took time.Duration, err error, skipped int) {
	m.countCycle(loop, 1, oneIf(err != nil), skipped)
	switch loop {
	case m.source.Health:
		m.processing(healthWork).Update(took.Seconds())
	case m.source.Metrics:
		select {
		case m.gathered <- took:
		default: // the store before is slow, and takes this cycle too
		}
	case m.source.Store:
		select {
		case gathering := <-m.gathered:
			took += gathering
		default:
		}
		m.processing(metricsWork).Update(took.Seconds())
	}
}

// Probed notes what the services answered.
func (m *Metrics) Probed(observations []probe.Observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range observations {
		m.probes(o.Service).Update(o.Took.Seconds())
		m.found[o.Service] = o.Reading
	}
}

// Aggregated notes how long a cycle's reading of the aggregates took.
func (m *Metrics) Aggregated(took time.Duration) { m.aggregates().Update(took.Seconds()) }

// Counted notes what an aggregate costs, how often it is due, and whether it failed.
func (m *Metrics) Counted(aggregate string, cost, every time.Duration, failed bool) {
	m.set.GetOrCreateGauge(fmt.Sprintf(`ops_worker_aggregate_cost_seconds{aggregate=%q}`, aggregate), nil).Set(cost.Seconds())
	m.set.GetOrCreateGauge(fmt.Sprintf(`ops_worker_aggregate_interval_seconds{aggregate=%q}`, aggregate), nil).Set(every.Seconds())
	m.set.GetOrCreateCounter(fmt.Sprintf(`ops_worker_aggregate_failures_total{aggregate=%q}`, aggregate)).Add(oneIf(failed))
}

// Stored counts samples that were stored.
func (m *Metrics) Stored(samples int) {
	m.set.GetOrCreateCounter(`ops_worker_stored_samples_total`).Add(samples)
}

// Dropped counts samples that are lost.
func (m *Metrics) Dropped(samples int) {
	m.set.GetOrCreateCounter(`ops_worker_dropped_samples_total`).Add(samples)
}

// Superseded counts samples that were not stored, since another replica had stored that
// time.
func (m *Metrics) Superseded(samples int) {
	m.set.GetOrCreateCounter(`ops_worker_superseded_samples_total`).Add(samples)
}

// writeStates writes 1 for the state in which each service was found last, and 0 for
// the others; and when the certificates end. What a replica found before it stood by is
// no state of now.
func (m *Metrics) writeStates(w io.Writer) {
	if leading, _ := m.source.Lease(); !leading {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	metrics.WriteMetadataIfNeeded(w, "ops_worker_service_state", "gauge")
	for _, service := range slices.Sorted(maps.Keys(m.found)) {
		for _, state := range []probe.Status{probe.Healthy, probe.Degraded, probe.Down, probe.Unknown} {
			fmt.Fprintf(w, "ops_worker_service_state{monitored=%q,state=%q} %d\n", service, state, oneIf(m.found[service].Status == state))
		}
	}
	metrics.WriteMetadataIfNeeded(w, "ops_worker_certificate_expiry_timestamp_seconds", "gauge")
	for _, service := range slices.Sorted(maps.Keys(m.found)) {
		if ends := m.found[service].CertificateEnds; !ends.IsZero() {
			fmt.Fprintf(w, "ops_worker_certificate_expiry_timestamp_seconds{monitored=%q} %d\n", service, ends.Unix())
		}
	}
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// ServeHTTP writes all metrics in the text format of Prometheus.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	m.set.WritePrometheus(w)
	metrics.WriteProcessMetrics(w)
}

// Package listener serves what an orchestrator and Prometheus ask a worker for,
// where HTTP_ADDR says so: whether it is well, whether it is ready, and its
// metrics. Nothing of it runs elsewhere.
package listener

import (
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	worker "ops_worker/collectors"
	"ops_worker/internal/probe"
)

// Build is what the binary was built from.
type Build struct{ Version, Commit string }

// Source is what is asked at every scrape.
type Source struct {
	// Lease tells whether this process leads, and the newest epoch that it led.
	Lease func() (leading bool, epoch int64)
	// Buffer tells how many cycles wait to be stored, and for how long the oldest
	// has.
	Buffer func() (cycles int, age time.Duration)
	// Pool tells how many connections to the database there are, and how many idle.
	Pool func() (size, idle int)
}

// What the platform's dashboards look for: the service, whatever SERVICE_NAME is,
// and the two jobs as operations. A metrics cycle is gathered in one loop and
// stored in another.
const (
	platformService = "ops_worker"
	healthWork      = "health_monitor"
	metricsWork     = "metrics_collector"
)

// The platform's buckets, for its histogram and ours, in seconds.
var buckets = []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

var _ worker.Observer = (*Metrics)(nil)

// states are the values of the label state.
var states = []probe.Status{probe.Healthy, probe.Degraded, probe.Down, probe.Unknown}

// Metrics are what /metrics shows. The methods are those of an observer of the
// worker; each is called by the loop that does the work.
type Metrics struct {
	registry *prometheus.Registry

	processing       *prometheus.HistogramVec
	cycles, failures *prometheus.CounterVec
	skipped          *prometheus.CounterVec
	probes           *prometheus.HistogramVec
	aggregates       prometheus.Histogram
	aggregateFailed  *prometheus.CounterVec
	// By aggregate: what it costs, and how often it is due.
	aggregateCost, aggregateEvery *prometheus.GaugeVec
	stored, dropped, superseded   prometheus.Counter

	gathered chan time.Duration // how long the gathering took that waits for its store

	mu    sync.Mutex
	found map[string]probe.Status // by service
}

// NewMetrics makes the metrics of a worker. Monitored are all services that it
// asks, so that the series are bounded.
func NewMetrics(build Build, monitored []string, source Source) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), gathered: make(chan time.Duration, 1), found: map[string]probe.Status{}}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m.processing = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pulse_processing_duration_seconds", Help: "How long a cycle took.", Buckets: buckets,
	}, []string{"service", "operation"}).MustCurryWith(prometheus.Labels{"service": platformService}).(*prometheus.HistogramVec)
	m.cycles = counter("ops_worker_cycles_total", "Cycles that have ended, by loop.", "loop")
	m.failures = counter("ops_worker_cycle_failures_total", "Cycles that failed, by loop.", "loop")
	m.skipped = counter("ops_worker_skipped_ticks_total", "Ticks without a cycle of their own, as the one before took too long, by loop.", "loop")
	m.probes = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "ops_worker_probe_duration_seconds", Help: "How long a service took to answer, or was waited for.", Buckets: buckets,
	}, []string{"monitored"})
	m.aggregates = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "ops_worker_aggregates_duration_seconds", Help: "How long a cycle's reading of the aggregates took.", Buckets: buckets,
	})
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"aggregate"})
	}
	m.aggregateCost = gauge("ops_worker_aggregate_cost_seconds", "How long the database takes for an aggregate: the median of its last readings.")
	m.aggregateEvery = gauge("ops_worker_aggregate_interval_seconds", "How often an aggregate is due within AGGREGATE_BUDGET.")
	m.aggregateFailed = counter("ops_worker_aggregate_failures_total", "Readings that an aggregate's samples were missing from.", "aggregate")
	samples := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m.stored = samples("ops_worker_stored_samples_total", "Samples appended to system_metrics.")
	m.dropped = samples("ops_worker_dropped_samples_total", "Samples that the buffer had no room for.")
	m.superseded = samples("ops_worker_superseded_samples_total", "Samples that were not stored, since another replica had stored that time.")

	m.registry.MustRegister(m.processing, m.cycles, m.failures, m.skipped, m.probes, m.aggregates, m.aggregateCost, m.aggregateEvery, m.aggregateFailed, m.stored, m.dropped, m.superseded,
		scraped{m, build, source},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// A series that is not there yet cannot be told from one that is gone.
	for _, loop := range []string{worker.HealthLoop, worker.MetricsLoop, worker.StoreLoop} {
		m.cycles.WithLabelValues(loop)
		m.failures.WithLabelValues(loop)
		m.skipped.WithLabelValues(loop)
	}
	for _, operation := range []string{healthWork, metricsWork} {
		m.processing.WithLabelValues(operation)
	}
	for _, name := range monitored {
		m.probes.WithLabelValues(name)
	}
	return m
}

// CycleEnded counts a cycle.
func (m *Metrics) CycleEnded(loop string, took time.Duration, err error, skipped int) {
	m.cycles.WithLabelValues(loop).Inc()
	m.skipped.WithLabelValues(loop).Add(float64(skipped))
	failures := m.failures.WithLabelValues(loop)
	if err != nil {
		failures.Inc()
	}
	switch loop {
	case worker.HealthLoop:
		m.processing.WithLabelValues(healthWork).Observe(took.Seconds())
	case worker.MetricsLoop:
		select {
		case m.gathered <- took:
		default: // the store before is slow, and takes this cycle too
		}
	case worker.StoreLoop:
		select {
		case gathering := <-m.gathered:
			m.processing.WithLabelValues(metricsWork).Observe((gathering + took).Seconds())
		default:
			m.processing.WithLabelValues(metricsWork).Observe(took.Seconds())
		}
	}
}

// Probed notes what the services answered.
func (m *Metrics) Probed(observations []probe.Observation) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range observations {
		m.probes.WithLabelValues(o.Service).Observe(o.Took.Seconds())
		m.found[o.Service] = o.Status
	}
}

// Aggregated notes a cycle's reading of the aggregates.
func (m *Metrics) Aggregated(took time.Duration) { m.aggregates.Observe(took.Seconds()) }

// Counted notes what became of one.
func (m *Metrics) Counted(aggregate string, cost, every time.Duration, failed bool) {
	m.aggregateCost.WithLabelValues(aggregate).Set(cost.Seconds())
	m.aggregateEvery.WithLabelValues(aggregate).Set(every.Seconds())
	failures := m.aggregateFailed.WithLabelValues(aggregate)
	if failed {
		failures.Inc()
	}
}

// Stored counts samples that were stored.
func (m *Metrics) Stored(samples int) { m.stored.Add(float64(samples)) }

// Dropped counts samples that are lost.
func (m *Metrics) Dropped(samples int) { m.dropped.Add(float64(samples)) }

// Superseded counts samples in whose place another replica's stand.
func (m *Metrics) Superseded(samples int) { m.superseded.Add(float64(samples)) }

// scraped is what is read at the moment of a scrape.
type scraped struct {
	metrics *Metrics
	build   Build
	source  Source
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	poolSize    = desc("pulse_db_pool_size", "Connections to the database.", "service")
	poolFree    = desc("pulse_db_pool_free", "Connections to the database that are idle.", "service")
	state       = desc("ops_worker_service_state", "1 for the state in which a service was found last, 0 for the others; of the replica that collects.", "monitored", "state")
	leaseHeld   = desc("ops_worker_lease_held", "1 while this replica collects, 0 while it stands by.")
	leaseEpoch  = desc("ops_worker_lease_epoch", "The newest term that this replica collected in, 0 before the first.")
	buffered    = desc("ops_worker_buffered_cycles", "Cycles that wait to be stored.")
	bufferedAge = desc("ops_worker_buffer_age_seconds", "How long the oldest of them has waited.")
	buildInfo   = desc("ops_worker_build_info", "1, with what the binary was built from.", "version", "commit", "goversion")
)

// Describe lists what Collect gives.
func (scraped) Describe(all chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolSize, poolFree, state, leaseHeld, leaseEpoch, buffered, bufferedAge, buildInfo} {
		all <- d
	}
}

// Collect reads it.
func (s scraped) Collect(all chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		all <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	size, idle := s.source.Pool()
	gauge(poolSize, float64(size), platformService)
	gauge(poolFree, float64(idle), platformService)
	leading, epoch := s.source.Lease()
	gauge(leaseHeld, number(leading))
	gauge(leaseEpoch, float64(epoch))
	cycles, age := s.source.Buffer()
	gauge(buffered, float64(cycles))
	gauge(bufferedAge, age.Seconds())
	gauge(buildInfo, 1, s.build.Version, s.build.Commit, runtime.Version())
	if !leading {
		return // what a replica found before it stood by is no state of now
	}
	s.metrics.mu.Lock()
	defer s.metrics.mu.Unlock()
	for service, found := range s.metrics.found {
		for _, status := range states {
			gauge(state, number(status == found), service, string(status))
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

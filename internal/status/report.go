package status

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/pace"
	"ops_worker/internal/probe"
)

// Report is what one reading found. Its JSON names are an interface.
type Report struct {
	// At is the database's clock, which every age is counted by.
	At       time.Time `json:"at"`
	Database Database  `json:"database"`
	// Notices warn about the report as a whole: it is old, or nobody collects.
	Notices []Notice `json:"notices"`
	// Unreadable says why a section could not be read.
	Unreadable map[Section]string `json:"unreadable"`
	// Leader is nil if there never was one, or it cannot be read.
	Leader       *Leader    `json:"leader"`
	NewestSample *time.Time `json:"newest_sample_at"`
	NewestCheck  *time.Time `json:"newest_check_at"`
	Services     []Service  `json:"services"`
	// Alerts are the oldest open ones; AlertsOpen counts them all.
	Alerts     []Alert `json:"alerts"`
	AlertsOpen int     `json:"alerts_open"`
	// Maintenance are the windows that are on: no alert opens for what they cover.
	Maintenance []maintenance.Window `json:"maintenance"`
	// Availability is of the services above, or of all where these cannot be read.
	Availability []Availability `json:"availability"`
	Series       []Series       `json:"series"`
}

// Database is the server that was asked.
type Database struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Standby bool   `json:"standby"`
	// ReplayLagSeconds is the age of the newest transaction that a standby has
	// replayed; nil on a primary, and where it is not known.
	ReplayLagSeconds *float64 `json:"replay_lag_seconds"`
}

// Section is a part of the report that is read by itself.
type Section string

// The sections.
const (
	LeaderSection       Section = "leader"
	ServicesSection     Section = "services"
	SinceSection        Section = "since"
	AlertsSection       Section = "alerts"
	MaintenanceSection  Section = "maintenance"
	AvailabilitySection Section = "availability"
	SeriesSection       Section = "series"
)

// Notice is one warning. Kind is standby, no_leader, old_samples, old_checks or
// future.
type Notice struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// Leader is the lease: which worker collects.
type Leader struct {
	Held   bool   `json:"held"`
	Holder string `json:"holder"` // the last holder, if nobody holds it
	Epoch  int64  `json:"epoch"`
	// Since is when it was acquired, ExpiresAt when it ends or has ended.
	Since     time.Time `json:"since"`
	ExpiresAt time.Time `json:"expires_at"`
	// StoredUpTo is the newest cycle in the database, nil if there is none.
	StoredUpTo      *time.Time `json:"stored_up_to"`
	IntervalSeconds float64    `json:"interval_seconds"`
	// CyclesBehind counts the cycles that are due since: they wait in the worker's
	// buffer, or were never collected.
	CyclesBehind int64 `json:"cycles_behind"`
}

// Service is how a service was at its newest check.
type Service struct {
	Service string       `json:"service"`
	State   probe.Status `json:"state"`
	// Since is when it became healthy or ceased to be, Checks how many in a row found
	// that; nil and 0 if nobody counted.
	Since     *time.Time `json:"since"`
	Checks    int32      `json:"checks"`
	LatencyMS *int32     `json:"latency_ms"`
	Reason    string     `json:"reason"` // empty if it is healthy
	CheckedAt time.Time  `json:"checked_at"`
	// CertificateEnds is nil if the service has no certificate, or none was seen.
	CertificateEnds *time.Time `json:"certificate_ends"`
}

// Alert is an open system alert.
type Alert struct {
	Service  string    `json:"service"`
	Status   string    `json:"status"` // OPEN or ACKNOWLEDGED
	OpenedAt time.Time `json:"opened_at"`
	Summary  string    `json:"summary"`
}

// Availability is in how much of the time a service was well, by its system alerts.
type Availability struct {
	Service string `json:"service"`
	// In percent of the time in which it was watched; 100 is no incident at all. Nil if
	// that was less than watchedShare of the span: no worker ran, its system alerts were
	// off, or it has not been there for so long.
	Percent24h *float64 `json:"percent_24h"`
	Percent7d  *float64 `json:"percent_7d"`
	Percent30d *float64 `json:"percent_30d"`
	// LastIncident is nil if there never was one.
	LastIncident *Incident `json:"last_incident"`
}

// Incident is a time in which a service was ill.
type Incident struct {
	StartedAt       time.Time  `json:"started_at"`
	EndedAt         *time.Time `json:"ended_at"` // nil while it lasts
	DurationSeconds float64    `json:"duration_seconds"`
	Reason          string     `json:"reason"`
}

// Series is the newest sample of one series, and its last hour.
type Series struct {
	Service string `json:"service"`
	Metric  string `json:"metric_name"`
	// Kind is counter, shown as its growth a second, or gauge. Which numbers of an extra
	// service are counters is not known, so all of them are gauges.
	Kind string    `json:"kind"`
	At   time.Time `json:"at"`
	// Old marks a series that has ceased, as those of a service that is down.
	Old bool `json:"old"`
	// Value is nil for a counter with a single point.
	Value *float64 `json:"value"`
	// Change is the difference to the first of the hour's values, nil if there is none.
	Change *float64 `json:"change"`
	// LastHour has a value for every three minutes, the newest last, and nil where there is none.
	LastHour []*float64 `json:"last_hour"`
}

// report judges what was gathered. The intervals are the settings'; the lease knows
// that of the worker.
func (g *gathering) report(metrics, health time.Duration) Report {
	version, _, _ := strings.Cut(clean(g.server.Version), " ")
	r := Report{
		At:           g.server.Now,
		Database:     Database{Name: clean(g.server.Database), Version: version, Standby: g.server.Standby},
		Notices:      []Notice{},
		Unreadable:   g.unreadable,
		Services:     []Service{},
		Alerts:       []Alert{},
		Maintenance:  []maintenance.Window{},
		Availability: []Availability{},
		Series:       []Series{},
	}
	r.addReplay(g.replayedAt)
	if g.lease != nil && g.lease.CycleSeconds > 0 {
		metrics = time.Duration(g.lease.CycleSeconds * float64(time.Second))
	}
	r.addLeader(g.lease, metrics)
	r.addServices(g.services, g.streaks, health)
	for _, a := range g.alerts {
		r.Alerts = append(r.Alerts, Alert{Service: clean(a.Service), Status: a.Status, OpenedAt: a.CreatedAt, Summary: clean(a.Summary)})
		r.AlertsOpen = int(a.Open)
	}
	r.addMaintenance(g.windows)
	r.addAvailability(g.availability)
	r.addSeries(g.series, metrics)
	return r
}

func (r *Report) note(kind, text string) { r.Notices = append(r.Notices, Notice{kind, text}) }

func (r *Report) addReplay(at time.Time) {
	switch {
	case !r.Database.Standby:
	case at.After(time.Unix(0, 0)):
		r.Database.ReplayLagSeconds = number(max(0, r.At.Sub(at)).Seconds())
		r.note("standby", fmt.Sprintf("hot standby: the newest transaction that it has replayed is %s old", r.age(at)))
	default:
		r.note("standby", "hot standby: how far it has replayed is not known")
	}
}

func (r *Report) addLeader(lease *db.ReadLeaseRow, interval time.Duration) {
	if r.Unreadable[LeaderSection] != "" {
		return
	}
	none := "no worker leads"
	if r.Database.Standby { // where the lease of a leader may not have arrived yet
		none = "no worker is known to lead"
	}
	if lease == nil {
		r.note("no_leader", none+": none has ever collected into this database")
		return
	}
	l := Leader{Held: lease.Held, Holder: clean(lease.Holder), Epoch: lease.Epoch, Since: lease.AcquiredAt, ExpiresAt: lease.ExpiresAt, IntervalSeconds: interval.Seconds()}
	r.Leader = &l
	if at := lease.LastCycleAt; at.After(time.Unix(0, 0)) {
		l.StoredUpTo = &at
		l.CyclesBehind = max(0, int64(r.At.Sub(at)/interval)-1) // the newest cycle may take a whole interval
	}
	if !l.Held {
		l.Holder = cmp.Or(l.Holder, clean(lease.LastHolder))
		r.note("no_leader", none)
	}
}

func (r *Report) addServices(rows []db.StatusServicesRow, streaks []db.StatusStreaksRow, interval time.Duration) {
	streakOf := map[string]db.StatusStreaksRow{}
	for _, streak := range streaks {
		streakOf[streak.Service] = streak
	}
	for _, row := range rows {
		s := Service{Service: clean(row.Service), State: state(row), CheckedAt: row.CheckedAt}
		if row.LatencyMs >= 0 {
			s.LatencyMS = &row.LatencyMs
		}
		if ends, err := time.Parse(time.RFC3339, row.CertificateEnds); err == nil {
			s.CertificateEnds = &ends
		}
		if s.State != probe.Healthy {
			httpStatus, _ := strconv.Atoi(row.HttpStatus)
			s.Reason = clean(probe.Reading{Status: s.State, HTTPStatus: httpStatus, Err: row.Error}.Reason())
			if s.Reason == string(s.State) {
				s.Reason = "" // it says nothing more
			}
		}
		// A streak that ends at another check was counted by another worker.
		if k, counted := streakOf[row.Service]; counted && k.CheckedAt.Equal(row.CheckedAt) && k.Healthy == (s.State == probe.Healthy) {
			s.Since, s.Checks = &k.Since, k.Checks
		}
		r.NewestCheck = later(r.NewestCheck, row.CheckedAt)
		r.Services = append(r.Services, s)
	}
	r.judgeAge("old_checks", "health check", r.NewestCheck, interval)
}

// state is the word in details, or else what the column says.
func state(row db.StatusServicesRow) probe.Status {
	switch s := probe.Status(row.State); s {
	case probe.Healthy, probe.Degraded, probe.Down, probe.Unknown:
		return s
	}
	if row.Status == string(probe.Healthy) {
		return probe.Healthy
	}
	return probe.Unknown
}

func later(newest *time.Time, at time.Time) *time.Time {
	if newest == nil || at.After(*newest) {
		return &at
	}
	return newest
}

// judgeAge warns if the newest sample or check is old, or lies in the future.
func (r *Report) judgeAge(kind, what string, newest *time.Time, interval time.Duration) {
	if newest == nil {
		return
	}
	switch old := r.At.Sub(*newest); {
	case old > pace.Overdue(interval):
		r.note(kind, fmt.Sprintf("the newest %s is %s old, with an interval of %s", what, ago(old), humanize.Age(interval)))
	case old < -time.Minute:
		r.note("future", fmt.Sprintf("the newest %s lies %s ahead of the database's clock", what, ago(old)))
	}
}

func (r *Report) addMaintenance(windows maintenance.Windows) {
	for _, w := range windows {
		if !w.On(r.At) {
			continue
		}
		w.Name, w.Services = clean(w.Name), slices.Clone(w.Services)
		for i, service := range w.Services {
			w.Services[i] = clean(service)
		}
		r.Maintenance = append(r.Maintenance, w)
	}
}

// addAvailability adds it in the order of the services, also of one that nobody has
// watched yet. No rows but nil are none: then it was not read.
func (r *Report) addAvailability(rows []db.StatusAvailabilityRow) {
	if rows == nil {
		return
	}
	found := map[string]Availability{}
	for _, row := range rows {
		a := Availability{Service: clean(row.Service), Percent24h: number(row.Percent24h), Percent7d: number(row.Percent7d), Percent30d: number(row.Percent30d)}
		if row.StartedAt.After(time.Unix(0, 0)) {
			a.LastIncident = &Incident{StartedAt: row.StartedAt, Reason: clean(row.Reason)}
			ended := r.At
			if row.EndedAt.After(time.Unix(0, 0)) {
				ended, a.LastIncident.EndedAt = row.EndedAt, &row.EndedAt
			}
			a.LastIncident.DurationSeconds = max(0, ended.Sub(row.StartedAt)).Seconds()
		}
		found[a.Service] = a
		if r.Unreadable[ServicesSection] != "" {
			r.Availability = append(r.Availability, a)
		}
	}
	for _, s := range r.Services {
		a := found[s.Service]
		a.Service = s.Service
		r.Availability = append(r.Availability, a)
	}
}

// shownAggregates are the numbers of the database and the platform that have a line:
// those of every cycle, and those that say why a platform is slow. The others are for
// charts.
var shownAggregates = []string{"connections", "db_size_bytes", "longest_transaction_seconds", "locks_waiting", "replication_lag_seconds",
	"devices_online", "devices_stale", "alerts_open", "deliveries_pending"}

// shown reports whether a series has a line of its own. Health and latency stand among
// the services.
func shown(service, metric string) bool {
	switch {
	case metric == config.HealthSample, metric == config.LatencySample:
		return false
	case service == config.DatabaseService, service == config.PlatformSamples:
		return slices.Contains(shownAggregates, metric)
	}
	return true
}

// isCounter takes jobs for numbers that also fall: without the service they are counted
// in the database, and fall when that is tidied.
func isCounter(service, metric string) bool {
	return service != "delivery" && slices.ContainsFunc(config.PlatformServices(), func(s config.Service) bool {
		return s.Name == service && s.Totals(metric)
	})
}

func (r *Report) addSeries(rows []db.StatusSeriesRow, interval time.Duration) {
	for _, row := range rows {
		r.NewestSample = later(r.NewestSample, row.Newest)
		if !shown(row.Service, row.MetricName) {
			continue
		}
		s := Series{Service: clean(row.Service), Metric: clean(row.MetricName), Kind: "gauge", At: row.Newest, Value: number(row.Value), LastHour: make([]*float64, buckets)}
		// Some series have a sample a minute.
		s.Old = r.At.Sub(row.Newest) > pace.Overdue(max(interval, time.Minute))
		values := row.Averages
		if isCounter(row.Service, row.MetricName) {
			s.Kind, s.Value, values = "counter", number(row.Rate), row.Rates
		}
		for i, b := range row.Buckets {
			if b >= 0 && b < buckets { // neither older than the hour nor in the future
				s.LastHour[b] = number(values[i])
			}
		}
		first := slices.IndexFunc(s.LastHour, func(v *float64) bool { return v != nil })
		if s.Value != nil && first >= 0 {
			s.Change = number(*s.Value - *s.LastHour[first])
		}
		r.Series = append(r.Series, s)
	}
	r.judgeAge("old_samples", "sample", r.NewestSample, interval)
}

// number is nil for what JSON cannot hold.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// age is how long before the reading something was.
func (r *Report) age(at time.Time) string { return ago(max(0, r.At.Sub(at))) }

// ago writes an age in whole seconds.
func ago(d time.Duration) string { return humanize.Age(d.Round(time.Second)) }

func clean(text string) string { return humanize.OneLine(text) }

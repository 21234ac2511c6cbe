// Package status reads how the platform is from the database alone, for the moment
// when the API, and with it the dashboard, is what is down: the services, the open
// alerts, the newest numbers and who collects them. It writes nothing, and needs no
// right but to read; what it may not or cannot read costs its own section.
package status

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/probe"
	"ops_worker/internal/schema"
)

// readTimeout bounds a reading.
const readTimeout = 5 * time.Second

// The sparklines: an hour in buckets of a minute.
const (
	buckets = 60
	bucket  = time.Minute
)

// patience is how many intervals may pass before what comes once an interval is
// old.
const patience = 3

// Report is what one reading found. Its JSON names are an interface.
type Report struct {
	// At is the database's clock, which every age is counted by.
	At       time.Time `json:"at"`
	Database Database  `json:"database"`
	// Notices are what spoils the picture: what is shown is old, or nothing collects.
	Notices []Notice `json:"notices"`
	// Unreadable says why a section could not be read.
	Unreadable map[Section]string `json:"unreadable"`
	// Leader is nil where there never was one, or it cannot be read.
	Leader       *Leader    `json:"leader"`
	NewestSample *time.Time `json:"newest_sample_at"`
	NewestCheck  *time.Time `json:"newest_check_at"`
	Services     []Service  `json:"services"`
	// Alerts are the oldest that are open; AlertsOpen is how many there are.
	Alerts     []Alert  `json:"alerts"`
	AlertsOpen int      `json:"alerts_open"`
	Series     []Series `json:"series"`
}

// Database is the server that was asked.
type Database struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Standby bool   `json:"standby"`
	// ReplayLagSeconds is the age of the newest transaction that a standby has
	// replayed; nil on a primary, or where it has replayed none.
	ReplayLagSeconds *float64 `json:"replay_lag_seconds"`
}

// Section is a part of the report that is read by itself.
type Section string

// The sections.
const (
	LeaderSection   Section = "leader"
	ServicesSection Section = "services"
	SinceSection    Section = "since"
	AlertsSection   Section = "alerts"
	SeriesSection   Section = "series"
)

// Notice is one line about the report as a whole.
type Notice struct {
	Kind NoticeKind `json:"kind"`
	Text string     `json:"text"`
}

// NoticeKind tells notices apart.
type NoticeKind string

// The kinds of notices.
const (
	StandbyNotice    NoticeKind = "standby"
	NoLeaderNotice   NoticeKind = "no_leader"
	OldSamplesNotice NoticeKind = "old_samples"
	OldChecksNotice  NoticeKind = "old_checks"
	FutureNotice     NoticeKind = "future"
)

// Leader is the lease: which worker collects.
type Leader struct {
	Held   bool   `json:"held"`
	Holder string `json:"holder"` // the last one, where it is not held
	Epoch  int64  `json:"epoch"`
	// Since is when it was acquired, ExpiresAt when it ends or has ended.
	Since     time.Time `json:"since"`
	ExpiresAt time.Time `json:"expires_at"`
	// StoredUpTo is the newest cycle in the database, nil where there is none.
	StoredUpTo      *time.Time `json:"stored_up_to"`
	IntervalSeconds float64    `json:"interval_seconds"`
	// CyclesBehind are the cycles that are due since and not in the database, whether
	// they wait in the worker's buffer or were never collected.
	CyclesBehind int64 `json:"cycles_behind"`
}

// Service is how a service was at its newest check.
type Service struct {
	Service string       `json:"service"`
	State   probe.Status `json:"state"`
	// Since is when it became well, or ceased to be, and Checks how many in a row
	// found that; nil and 0 where nobody counted.
	Since     *time.Time `json:"since"`
	Checks    int32      `json:"checks"`
	LatencyMS *int32     `json:"latency_ms"`
	Reason    string     `json:"reason"` // empty where it is healthy
	CheckedAt time.Time  `json:"checked_at"`
}

// Alert is an open system alert.
type Alert struct {
	Service  string    `json:"service"`
	Status   string    `json:"status"` // OPEN or ACKNOWLEDGED
	OpenedAt time.Time `json:"opened_at"`
	Summary  string    `json:"summary"`
}

// Kind is how a series is shown.
type Kind string

// The kinds of series. Of an extra service nobody knows which of its numbers also
// fall, so they are shown as they are.
const (
	Gauge   Kind = "gauge"   // as its value
	Counter Kind = "counter" // as its growth a second
)

// Series is the newest sample of one series, and the last hour of it.
type Series struct {
	Service string    `json:"service"`
	Metric  string    `json:"metric_name"`
	Kind    Kind      `json:"kind"`
	At      time.Time `json:"at"`
	// Old marks a series that has ceased while others may go on, as those of a
	// service do that is down.
	Old bool `json:"old"`
	// Value is nil where a counter has one point alone.
	Value *float64 `json:"value"`
	// Change is the difference to the first bucket of the hour that has a value; nil
	// where there is one bucket alone.
	Change *float64 `json:"change"`
	// LastHour has a value a minute, the newest last, and nil where there was none.
	LastHour []*float64 `json:"last_hour"`
}

// Reader reads the status of one database.
type Reader struct {
	pool            *pgxpool.Pool
	client          *db.Client
	metrics, health time.Duration
	// timeout is readTimeout, but in tests.
	timeout time.Duration
}

// Open makes a reader of the database that cfg names, without waiting for it.
func Open(ctx context.Context, cfg config.Config) (*Reader, error) {
	options := cfg.DatabaseOptions()
	// One at a time is in use; those of readings that got no answer take a while to
	// close.
	options.MinConns, options.MaxConns = 0, 4
	options.ConnectTimeout = min(options.ConnectTimeout, readTimeout)
	options.ApplicationName = cfg.ServiceName + "_status"
	pool, err := db.Open(ctx, options)
	if err != nil {
		return nil, err
	}
	return &Reader{pool: pool, client: db.NewClient(pool, readTimeout), metrics: cfg.MetricsInterval, health: cfg.HealthInterval, timeout: readTimeout}, nil
}

// Close frees the connections.
func (r *Reader) Close() { db.Close(r.pool) }

// Read reads everything anew. Its error is one line without a secret, and means
// that the database could not be asked at all, went away meanwhile, or has none of the
// worker's tables.
func (r *Reader) Read(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	g := gathering{unreadable: map[Section]string{}}
	if err := r.gather(ctx, &g); err != nil {
		return Report{}, r.explain(err)
	}
	return g.report(r.metrics, r.health), nil
}

// NoTablesError is a database without any of the worker's tables.
type NoTablesError struct{ Target string }

func (e *NoTablesError) Error() string {
	return "none of the worker's tables is there: " + e.Target + "; is it the right database? `ops-worker migrate up` makes them, or says why not"
}

func (r *Reader) explain(err error) error {
	var none *NoTablesError
	if errors.As(err, &none) {
		return err
	}
	cause := db.RootCause(err).Error()
	if errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) {
		cause = "no answer within " + r.timeout.String()
	}
	return &db.UnreachableError{Cause: clean(cause), Target: r.target()}
}

func (r *Reader) target() string { return db.Target(r.pool.Config().ConnConfig.Config) }

// gathering is what the sections brought back, as the database has it.
type gathering struct {
	server     db.StatusServerRow
	replayedAt *time.Time // of a standby that says so; the epoch where it has replayed nothing
	lease      *db.ReadLeaseRow
	services   []db.StatusServicesRow
	streaks    []db.StatusStreaksRow
	alerts     []db.StatusAlertsRow
	series     []db.StatusSeriesRow
	unreadable map[Section]string
}

// section is a part that is read by itself.
type section struct {
	name  Section
	table string
	read  func(context.Context, *db.Queries, *gathering) error
}

// sections are in the order of reading: the one that may take the longest comes
// last, when all the time that is left is its own.
var sections = []section{
	{LeaderSection, schema.LeaseTable, func(ctx context.Context, q *db.Queries, g *gathering) error {
		lease, err := q.ReadLease(ctx, db.LeaseName)
		if err == nil {
			g.lease = &lease
		}
		if db.IsNoRows(err) {
			return nil
		}
		return err
	}},
	{ServicesSection, "service_health", func(ctx context.Context, q *db.Queries, g *gathering) (err error) {
		g.services, err = q.StatusServices(ctx)
		return err
	}},
	{SinceSection, "ops_worker_streak", func(ctx context.Context, q *db.Queries, g *gathering) (err error) {
		g.streaks, err = q.StatusStreaks(ctx)
		return err
	}},
	{AlertsSection, "fleet_alert", func(ctx context.Context, q *db.Queries, g *gathering) (err error) {
		if _, err := q.EnterPlatformScope(ctx); err != nil {
			return err
		}
		g.alerts, err = q.StatusAlerts(ctx)
		return err
	}},
	{SeriesSection, "system_metrics", func(ctx context.Context, q *db.Queries, g *gathering) (err error) {
		g.series, err = q.StatusSeries(ctx, db.StatusSeriesParams{BucketSeconds: bucket.Seconds(), Buckets: buckets})
		return err
	}},
}

// gather reads section by section, each in a transaction of its own, all on one
// connection: a database that has none to spare is when one looks.
func (r *Reader) gather(ctx context.Context, g *gathering) error {
	_, err := r.read(ctx, len(sections)+1, func(ctx context.Context, q *db.Queries) (err error) {
		g.server, err = q.StatusServer(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if g.server.Standby {
		_, err := r.read(ctx, len(sections)+1, func(ctx context.Context, q *db.Queries) error {
			at, err := q.StatusReplay(ctx)
			if err == nil {
				g.replayedAt = &at
			}
			return err
		})
		if err != nil && !ofItsSection(err) {
			return err
		}
	}
	missing := 0
	for i, s := range sections {
		limit, err := r.read(ctx, len(sections)-i, func(ctx context.Context, q *db.Queries) error { return s.read(ctx, q, g) })
		switch {
		case err == nil:
		case ofItsSection(err):
			g.unreadable[s.name] = g.reason(err, s.table, limit)
			if db.IsMissingTable(err) {
				missing++
			}
		default:
			return err
		}
	}
	if missing >= ownSections {
		return &NoTablesError{r.target()}
	}
	return nil
}

// ownSections is how many sections are of the worker's own tables: all but the alerts.
const ownSections = 4

// ofItsSection reports whether an error is one section's own: the server's about
// its table, or a value that cannot be read. Any other is of the connection, and
// half a report in the place of a whole one would help nobody.
func ofItsSection(err error) bool {
	var scan pgx.ScanArgError
	return errors.As(err, &scan) || db.IsServerError(err)
}

// read runs fn in a transaction that only reads, and once more where its
// connection had died. Its statements may take their share of the time that is
// left for so many sections, so that a table that is locked costs no other one.
func (r *Reader) read(ctx context.Context, sectionsLeft int, fn func(context.Context, *db.Queries) error) (limit time.Duration, err error) {
	deadline, _ := ctx.Deadline()
	limit = time.Until(deadline) * 9 / 10 / time.Duration(sectionsLeft)
	return limit, r.client.ReadWithin(ctx, db.Limits{Statement: limit, Lock: limit / 4}, fn)
}

// reason says in a few words why a section could not be read.
func (g *gathering) reason(err error, table string, limit time.Duration) string {
	switch {
	case db.IsRowSecurity(err):
		return fmt.Sprintf("row-level security would hide rows of %s from %s", table, g.server.LoginRole)
	case db.IsForbidden(err):
		return fmt.Sprintf("%s may not read %s", g.server.LoginRole, table)
	case db.IsMissingTable(err):
		return "there is no table " + table
	case db.IsLocked(err):
		return table + " is locked"
	case db.IsTimeout(err):
		return fmt.Sprintf("%s was not read within %s", table, limit.Round(100*time.Millisecond))
	}
	return clean(db.RootCause(err).Error())
}

// report judges what was gathered. The intervals are the settings'; the lease
// knows that of the worker.
func (g *gathering) report(metrics, health time.Duration) Report {
	r := Report{
		At:         g.server.Now,
		Database:   Database{Name: clean(g.server.Database), Version: firstWord(g.server.Version), Standby: g.server.Standby},
		Notices:    []Notice{},
		Unreadable: g.unreadable,
		Services:   []Service{},
		Alerts:     []Alert{},
		Series:     []Series{},
	}
	if g.server.Standby {
		text := "hot standby: it has replayed nothing since its start"
		switch {
		case g.replayedAt == nil:
			text = "hot standby: it does not say how far it has replayed"
		case g.replayedAt.After(time.Unix(0, 0)):
			lag := max(0, r.At.Sub(*g.replayedAt))
			seconds := lag.Seconds()
			r.Database.ReplayLagSeconds = &seconds
			text = fmt.Sprintf("hot standby: the newest transaction that it has replayed is %s old", ago(lag))
		}
		r.note(StandbyNotice, text)
	}
	if g.lease != nil {
		if known := time.Duration(g.lease.CycleSeconds * float64(time.Second)); known > 0 {
			metrics = known
		}
	}
	r.addLeader(g.lease, metrics)
	r.addServices(g.services, g.streaks, health)
	for _, a := range g.alerts {
		r.Alerts = append(r.Alerts, Alert{Service: clean(a.Service), Status: a.Status, OpenedAt: a.CreatedAt, Summary: clean(a.Summary)})
		r.AlertsOpen = int(a.Open)
	}
	r.addSeries(g.series, metrics)
	return r
}

func (r *Report) note(kind NoticeKind, text string) {
	r.Notices = append(r.Notices, Notice{kind, text})
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
		r.note(NoLeaderNotice, none+": none has ever collected into this database")
		return
	}
	l := Leader{Held: lease.Held, Holder: clean(lease.Holder), Epoch: lease.Epoch, Since: lease.AcquiredAt, ExpiresAt: lease.ExpiresAt, IntervalSeconds: interval.Seconds()}
	if lease.LastCycleAt.After(time.Unix(0, 0)) {
		at := lease.LastCycleAt
		l.StoredUpTo = &at
		// The newest one is due for a whole interval.
		l.CyclesBehind = max(0, int64(r.At.Sub(at)/interval)-1)
	}
	if !l.Held {
		left := "expired"
		if l.Holder == "" {
			l.Holder, left = clean(lease.LastHolder), "was handed back"
		}
		switch {
		case lease.FromTheFuture:
			r.note(NoLeaderNotice, none+": the lease was written by a clock that is wrong")
		case l.Holder == "":
			r.note(NoLeaderNotice, none)
		default:
			r.note(NoLeaderNotice, fmt.Sprintf("%s: the lease of %s %s %s ago", none, l.Holder, left, r.age(l.ExpiresAt)))
		}
	}
	r.Leader = &l
}

func (r *Report) addServices(rows []db.StatusServicesRow, streaks []db.StatusStreaksRow, interval time.Duration) {
	of := map[string]db.StatusStreaksRow{}
	for _, k := range streaks {
		of[k.Service] = k
	}
	for _, row := range rows {
		s := Service{Service: clean(row.Service), State: state(row), CheckedAt: row.CheckedAt}
		if row.LatencyMs >= 0 {
			ms := row.LatencyMs
			s.LatencyMS = &ms
		}
		if s.State != probe.Healthy {
			httpStatus, _ := strconv.Atoi(row.HttpStatus)
			s.Reason = clean(probe.Reading{Status: s.State, HTTPStatus: httpStatus, Err: row.Error}.Reason())
			if s.Reason == string(s.State) {
				s.Reason = "" // says nothing more
			}
		}
		// A streak of another check is one of a worker that counted and then did not.
		if k, counted := of[row.Service]; counted && k.CheckedAt.Equal(row.CheckedAt) && k.Healthy == (s.State == probe.Healthy) {
			s.Since, s.Checks = &k.Since, k.Checks
		}
		if r.NewestCheck == nil || s.CheckedAt.After(*r.NewestCheck) {
			at := s.CheckedAt
			r.NewestCheck = &at
		}
		r.Services = append(r.Services, s)
	}
	if r.NewestCheck != nil {
		r.judgeAge(OldChecksNotice, "health check", *r.NewestCheck, interval)
	}
}

// state is the word in details, or what the column says where there is none that
// is known.
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

// judgeAge says so where the newest of something is old, or cannot be yet.
func (r *Report) judgeAge(kind NoticeKind, what string, newest time.Time, interval time.Duration) {
	switch old := r.At.Sub(newest); {
	case old > patience*interval:
		r.note(kind, fmt.Sprintf("the newest %s is %s old, with an interval of %s", what, ago(old), humanize.Age(interval)))
	case old < -time.Minute:
		r.note(FutureNotice, fmt.Sprintf("the newest %s lies %s ahead of the database's clock", what, ago(old)))
	}
}

// aggregated are the series of the database and of the platform that have a line, and
// how often each comes: 0 is with every cycle. Of those of a minute they are the ones
// that say why a platform is slow; the others are for charts.
var aggregated = map[string]time.Duration{
	"connections":                 0,
	"db_size_bytes":               0,
	"longest_transaction_seconds": time.Minute,
	"locks_waiting":               time.Minute,
	"replication_lag_seconds":     time.Minute,
	"devices_online":              0,
	"devices_stale":               0,
	"alerts_open":                 0,
	"deliveries_pending":          0,
}

func isAggregated(service string) bool {
	return service == config.DatabaseService || service == config.PlatformSamples
}

// shown reports whether a series has a line of its own. Health and latency stand among
// the services.
func shown(service, metric string) bool {
	if metric == config.HealthSample || metric == config.LatencySample {
		return false
	}
	_, listed := aggregated[metric]
	return listed || !isAggregated(service)
}

// every is how often a series has a sample, where a cycle comes every interval.
func every(service, metric string, interval time.Duration) time.Duration {
	if isAggregated(service) {
		return max(interval, aggregated[metric])
	}
	services := config.PlatformServices()
	i := slices.IndexFunc(services, func(s config.Service) bool { return s.Name == service && s.Kind == config.ProbeCounters })
	other := i >= 0 && metric != config.InstancesSample && metric != config.InstancesHealthySample &&
		!slices.ContainsFunc(services[i].Counters, func(c config.Counter) bool { return c.Name == metric })
	if other {
		return max(interval, time.Minute)
	}
	return interval
}

func (r *Report) addSeries(rows []db.StatusSeriesRow, interval time.Duration) {
	counters := map[[2]string]bool{}
	for _, s := range config.PlatformServices() {
		for _, c := range s.Counters {
			counters[[2]string{s.Name, c.Name}] = !c.Gauge
		}
	}
	for _, row := range rows {
		if r.NewestSample == nil || row.Newest.After(*r.NewestSample) {
			at := row.Newest
			r.NewestSample = &at
		}
		if !shown(row.Service, row.MetricName) {
			continue
		}
		s := Series{Service: clean(row.Service), Metric: clean(row.MetricName), Kind: Gauge, At: row.Newest, Value: number(row.Value), LastHour: make([]*float64, buckets)}
		s.Old = r.At.Sub(row.Newest) > patience*every(row.Service, row.MetricName, interval)
		values := row.Averages
		if counters[[2]string{row.Service, row.MetricName}] {
			s.Kind, s.Value, values = Counter, number(row.Rate), row.Rates
		}
		for i, b := range row.Buckets {
			if b >= 0 && b < buckets { // older than the hour, or ahead of the clock
				s.LastHour[b] = number(values[i])
			}
		}
		s.Change = change(s.Value, s.LastHour)
		r.Series = append(r.Series, s)
	}
	if r.NewestSample != nil {
		r.judgeAge(OldSamplesNotice, "sample", *r.NewestSample, interval)
	}
}

// change is the difference of a value to the first of its hour, nil where all there
// is of that is the newest bucket, in which the value itself lies.
func change(value *float64, hour []*float64) *float64 {
	there := func(v *float64) bool { return v != nil }
	first := slices.IndexFunc(hour, there)
	if value == nil || first < 0 || !slices.ContainsFunc(hour[first+1:], there) {
		return nil
	}
	return number(*value - *hour[first])
}

// number is nil for what is none, which JSON does not know either.
func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// ago is an age, which below a second is noise, and below zero two clocks.
func ago(d time.Duration) string { return humanize.Age(d.Round(time.Second)) }

// clean makes one line of a text from anywhere: no control or invisible
// characters, which could draw on the terminal, and no invalid UTF-8.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.Join(strings.Fields(text), " ")
}

func firstWord(text string) string {
	word, _, _ := strings.Cut(clean(text), " ")
	return word
}

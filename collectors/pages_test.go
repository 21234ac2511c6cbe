package collectors

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
	"ops_worker/internal/spool"
)

const (
	pagesInterval = 5 * time.Second
	pagesSteps    = 181 // a quarter of an hour
	restartAt     = 130 // the first that ingest answers after it began from zero
)

// away are the cycles in which ingest does not answer.
func away(step int) bool { return step >= 100 && step < 104 }

// truth is how the simulated platform is at a step of its cycles.
type truth struct {
	written                    float64 // by ingest, since the beginning
	queue                      float64
	online, stale, offline     int
	open, closed               int // alerts
	pending, failed, succeeded int // jobs
}

// devices and quarantined are how many there are all the while.
const (
	devices     = 60
	quarantined = 3
)

// truthAt is the platform's state at a step: what the database holds changes once a
// minute, every 12 steps.
func truthAt(step int) truth {
	minute := step / 12
	t := truth{queue: float64(step % 7), online: 20 + minute, stale: 9 - minute%3, open: 2 + minute%4, closed: minute,
		pending: minute % 5, failed: minute / 2, succeeded: 3 * minute}
	t.offline = devices - t.online - t.stale
	for s := 1; s <= step; s++ {
		t.written += rateAt(s) * pagesInterval.Seconds()
	}
	return t
}

// rateAt is how many messages a second ingest has written in the five seconds before a
// step.
func rateAt(step int) float64 { return []float64{100, 250, 40}[step/61] }

// simulation is the platform, its pages, and the worker between them.
type simulation struct {
	newest    bool // the newest release, without a delivery service
	step      int
	start     time.Time // of step 0
	pool      *pgxpool.Pool
	worker    *Worker
	connected map[int]float64 // the connections, at each step
	services  map[string]string
}

// health answers as a service of the platform does, at the simulation's step.
func (s *simulation) health(service string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		now := truthAt(s.step)
		counters := ""
		switch service {
		case "ingest":
			if away(s.step) {
				http.Error(w, "starting", http.StatusServiceUnavailable)
				return
			}
			if s.step >= restartAt {
				now.written -= truthAt(restartAt - 1).written
			}
			queue := "queue_depth"
			if s.newest {
				queue = "nats_telemetry_pending"
			}
			counters = fmt.Sprintf(`"messages_received":%f,"messages_written":%f,%q:%f`, now.written, now.written, queue, now.queue)
		case "delivery":
			counters = fmt.Sprintf(`"jobs_succeeded":%d,"jobs_failed":%d,"jobs_pending":%d`, now.succeeded, now.failed, now.pending)
		}
		fmt.Fprintf(w, `{"status":"healthy","counters":{%s}}`, counters)
	}
}

// move makes the platform's tables say what is true at the simulation's step.
func (s *simulation) move(t *testing.T) {
	t.Helper()
	now := truthAt(s.step)
	jobs := `DELETE FROM delivery_jobs; INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, status, payload_json)
		SELECT 't1', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', status, '{}'`
	if s.newest {
		jobs = `DELETE FROM notification_jobs; INSERT INTO notification_jobs (tenant_id, alert_id, channel_id, status) SELECT 't1', 1, 1, status`
	}
	s.exec(t, `
		UPDATE device_state SET status = CASE WHEN device_id::int < $1::int THEN 'ONLINE' WHEN device_id::int < $1::int + $2::int THEN 'STALE' ELSE 'OFFLINE' END;
		DELETE FROM fleet_alert;
		INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, summary)
		SELECT 't1', 's', 'd', 'X', i::text, CASE WHEN i <= $3::int THEN 'OPEN' ELSE 'CLOSED' END, 5, 'x' FROM generate_series(1, $3::int + $4::int) i;
		`+jobs+` FROM (SELECT CASE WHEN i <= $5::int THEN 'PENDING' WHEN i <= $5::int + $6::int THEN 'FAILED' ELSE 'COMPLETED' END AS status FROM generate_series(1, $5::int + $6::int + $7::int) i) j`,
		now.online, now.stale, now.open, now.closed, now.pending, now.failed, now.succeeded)
}

// exec runs several statements.
func (s *simulation) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.pool.Exec(t.Context(), sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...); err != nil {
		t.Fatal(err)
	}
}

// newSimulation is a platform of a release, a few minutes ago.
func newSimulation(t *testing.T, newest bool) *simulation {
	t.Helper()
	s := &simulation{newest: newest, connected: map[int]float64{}, services: map[string]string{}}
	database := pgtest.NewEmpty(t)
	if newest {
		release, err := os.ReadFile("../internal/schema/testdata/platform_new.sql")
		if err != nil {
			t.Fatal(err)
		}
		database.Exec(t, string(release))
	}
	s.pool = database.Pool(t)
	if _, err := schema.MigrateUp(t.Context(), s.pool, false); err != nil {
		t.Fatal(err)
	}
	s.exec(t, `
		INSERT INTO tenants (tenant_id, name) VALUES ('t1', 'One') ON CONFLICT DO NOTHING;
		DELETE FROM device_state; DELETE FROM device_registry; DELETE FROM quarantine_events;
		INSERT INTO device_registry (tenant_id, device_id, site_id) SELECT 't1', i::text, 's' FROM generate_series(1, $1) i;
		INSERT INTO device_state (tenant_id, device_id, site_id) SELECT 't1', i::text, 's' FROM generate_series(0, $1::int - 1) i;
		INSERT INTO quarantine_events (topic, tenant_id, site_id, device_id, reason, payload) SELECT 'a', 't1', 's', 'd', 'no such device', '{}' FROM generate_series(1, $2)`,
		devices, quarantined)
	names := []string{"ingest", "evaluator"}
	if !newest {
		names = append(names, "dispatcher", "delivery")
	}
	settings := []string{"METRICS_COLLECTION_INTERVAL=5s", "LEASE_TTL=5m", "SYSTEM_ALERT_ENABLED=false"}
	for _, name := range names {
		server := httptest.NewServer(s.health(name))
		t.Cleanup(server.Close)
		s.services[name] = server.URL
		settings = append(settings, strings.ToUpper(name)+"_HEALTH_URL="+server.URL)
	}
	s.worker = NewWorker(Options{Config: workerConfig(t, database.URL, settings...), Pool: s.pool, Buffer: spool.NewMemory(10), Log: zerolog.Nop()})
	s.worker.metrics.counting.schedule.longest = time.Minute // a busy machine's too
	s.worker.metrics.gatherer.clock.current = func() time.Time { return s.at(s.step) }
	s.start = time.Now().Add(-(pagesSteps - 1) * pagesInterval).Truncate(time.Microsecond)
	if _, err := s.worker.Lease.TryAcquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// at is when a step is.
func (s *simulation) at(step int) time.Time { return s.start.Add(time.Duration(step) * pagesInterval) }

// run lets the platform and the worker go on until a step.
func (s *simulation) run(t *testing.T, until int) {
	t.Helper()
	for ; s.step < until; s.step++ {
		if s.step%12 == 0 {
			s.move(t)
		}
		if err := errors.Join(s.worker.metrics.gatherer.cycle(t.Context()), s.worker.metrics.storer.cycle(t.Context())); err != nil {
			t.Fatal(err)
		}
		s.connected[s.step] = float64(pgtest.Count(t, s.pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"))
	}
}

// point is one of a chart.
type point struct {
	At    time.Time
	Value float64
}

// history is the route /metrics/history, without a service.
func (s *simulation) history(t *testing.T, metric string, minutes int) []point {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), "SELECT time, value FROM system_metrics WHERE metric_name = $1 AND time > now() - make_interval(mins => $2) ORDER BY time", metric, minutes)
	if err != nil {
		t.Fatal(err)
	}
	points, err := pgx.CollectRows(rows, pgx.RowToStructByPos[point])
	if err != nil {
		t.Fatal(err)
	}
	return points
}

// ratedBetween is what the route makes of points where a page wants a rate: their difference by
// the seconds between them, or where that is negative the newer value.
func ratedBetween(points []point) (rates []point) {
	for i := 1; i < len(points); i++ {
		grown := points[i].Value - points[i-1].Value
		if grown < 0 {
			grown = points[i].Value
		}
		rates = append(rates, point{points[i].At, grown / points[i].At.Sub(points[i-1].At).Seconds()})
	}
	return rates
}

// routeNamed is a read of the platform's routes.
func routeNamed(name string) schema.Route {
	routes := schema.Routes()
	return routes[slices.IndexFunc(routes, func(r schema.Route) bool { return r.Name == name })]
}

// route is the first row of what a route of the platform reads, and how many there are.
func (s *simulation) route(t *testing.T, name string) (first []any, rows int) {
	t.Helper()
	route := routeNamed(name)
	err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		if route.Operator {
			if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE "+schema.OperatorRole); err != nil {
				return err
			}
		}
		found, err := tx.Query(t.Context(), route.SQL)
		if err != nil {
			return err
		}
		defer found.Close()
		for ; found.Next(); rows++ {
			values, err := found.Values()
			if err != nil {
				return err
			}
			if rows == 0 {
				first = values
			}
		}
		return found.Err()
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return first, rows
}

// latest is the route /metrics/latest, by "service.metric".
func (s *simulation) latest(t *testing.T) map[string]float64 {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), routeNamed("/metrics/latest").SQL)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for rows.Next() {
		var metric, service string
		var at time.Time
		var value float64
		if err := rows.Scan(&metric, &service, &at, &value); err != nil {
			t.Fatal(err)
		}
		values[service+"."+metric] = value
	}
	return values
}

// card is what a card of the dashboard shows of a line: the last point, and where the mean
// of the newest six is more than a tenth from that of the six before.
func card(line []point) (value float64, trend string) {
	if len(line) < 12 {
		return math.NaN(), "too few points"
	}
	mean := func(points []point) (sum float64) {
		for _, p := range points {
			sum += p.Value / float64(len(points))
		}
		return sum
	}
	before, now := mean(line[len(line)-12:len(line)-6]), mean(line[len(line)-6:])
	switch value = line[len(line)-1].Value; {
	case now > 1.1*before:
		return value, "up"
	case now < 0.9*before:
		return value, "down"
	}
	return value, "flat"
}

// trueLine is a line of what was true at each step of a series.
func (s *simulation) trueLine(value func(step int) float64, stored func(step int) bool) (line []point) {
	for step := range s.step {
		if stored(step) {
			line = append(line, point{s.at(step), value(step)})
		}
	}
	return line
}

func everyStep(int) bool     { return true }
func answered(step int) bool { return !away(step) }
func (s *simulation) minutely(step int) bool {
	return step == 0 || s.at(step).Truncate(time.Minute) != s.at(step-1).Truncate(time.Minute)
}

// ofJobs is where a delivery service reports the jobs, or the database once a minute.
func (s *simulation) ofJobs(step int) bool { return !s.newest || s.minutely(step) }

// trueRate is the messages a second that were written between the points of messages_written.
func (s *simulation) trueRate() []point {
	line := s.trueLine(func(step int) float64 { return truthAt(step).written }, answered)
	for i := len(line) - 1; i > 0; i-- {
		line[i].Value = (line[i].Value - line[i-1].Value) / line[i].At.Sub(line[i-1].At).Seconds()
	}
	return line[1:]
}

// place is one of a page: what it shows, and the truth.
type place func(t *testing.T, s *simulation) (shown, true any)

// lineOf is a chart of a series, whose truth is value at each step that is stored.
func lineOf(metric string, value func(truth) float64, stored func(s *simulation, step int) bool) place {
	return func(t *testing.T, s *simulation) (any, any) {
		return s.history(t, metric, 60), s.trueLine(func(step int) float64 { return value(truthAt(step)) }, func(step int) bool { return stored(s, step) })
	}
}

// cardOf is a card of a chart, with its line: the last 30 minutes are all there are.
func cardOf(chart place) place {
	return func(t *testing.T, s *simulation) (any, any) {
		shown, true := chart(t, s)
		value, trend := card(shown.([]point))
		trueValue, trueTrend := card(true.([]point))
		return []any{value, trend, shown}, []any{trueValue, trueTrend, true}
	}
}

func ingestChart(t *testing.T, s *simulation) (any, any) {
	return ratedBetween(s.history(t, "messages_written", 60)), s.trueRate()
}

func connectionChart(t *testing.T, s *simulation) (any, any) {
	shown := s.history(t, "connections", 60)
	return shown, s.trueLine(func(step int) float64 {
		if step < len(shown) && shown[step].At.Equal(s.at(step)) {
			return s.connections(step, shown[step].Value)
		}
		return s.connected[step]
	}, everyStep)
}

// connections are those of a step: as they are shown, give or take a vacuum that came or went
// between the two readings.
func (s *simulation) connections(step int, shown float64) float64 {
	if math.Abs(shown-s.connected[step]) <= 1 {
		return shown
	}
	return s.connected[step]
}

// serviceHealth is what the API finds when it asks the services itself; what the worker has
// found stands beside it.
func serviceHealth(t *testing.T, s *simulation) (any, any) {
	if err := s.worker.health.cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	var shown, true []string
	for name, url := range s.services {
		response, err := http.Get(url + "/health")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		state := "healthy"
		if response.StatusCode != http.StatusOK {
			state = "degraded"
		}
		shown = append(shown, name+" "+state)
	}
	slices.Sort(shown)
	true = pgtest.Rows(t, s.pool, "SELECT service, details->>'status' FROM service_health WHERE service <> 'postgres' ORDER BY 1")
	return shown, true
}

func openAlerts(t *testing.T, s *simulation) (any, any) {
	alerts, _ := s.route(t, "/aggregates alerts")
	return fmt.Sprint(alerts[0]), fmt.Sprint(truthAt(s.step - 1).open)
}

func aggregates(t *testing.T, s *simulation) (any, any) {
	now := truthAt(s.step - 1)
	registry, _ := s.route(t, "/aggregates devices")
	states, _ := s.route(t, "/aggregates device states")
	alerts, _ := s.route(t, "/aggregates alerts")
	jobs, _ := s.route(t, "/aggregates deliveries")
	return fmt.Sprint(registry[0], states[:3], alerts[:2], jobs[:3]),
		fmt.Sprint(int64(devices), []int{now.online, now.stale, now.offline}, []int{now.open, now.closed}, []int{now.pending, now.succeeded, now.failed})
}

func failures(t *testing.T, s *simulation) (any, any) {
	_, failed := s.route(t, "/errors deliveries")
	_, inQuarantine := s.route(t, "/errors quarantine")
	_, audited := s.route(t, "/errors audit")
	return []int{failed, inQuarantine, audited}, []int{truthAt(s.step - 1).failed, quarantined, 0}
}

func capacity(t *testing.T, s *simulation) (any, any) {
	size, _ := s.route(t, "/capacity size")
	_, tables := s.route(t, "/capacity tables")
	connections, _ := s.route(t, "/health connections")
	trueSize := int64(pgtest.Count(t, s.pool, "SELECT pg_database_size(current_database())"))
	if shown := size[0].(int64); max(shown-trueSize, trueSize-shown) < 1<<20 { // a vacuum came between
		trueSize = shown
	}
	return fmt.Sprint(size[0], tables, connections[0], connections[1]),
		fmt.Sprint(trueSize, 10, s.connections(s.step-1, float64(connections[0].(int32))), pgtest.Count(t, s.pool, "SELECT current_setting('max_connections')::int"))
}

var (
	queueChart  = lineOf("queue_depth", func(t truth) float64 { return t.queue }, func(_ *simulation, step int) bool { return answered(step) })
	always      = func(*simulation, int) bool { return true }
	jobsPending = lineOf("jobs_pending", func(t truth) float64 { return float64(t.pending) }, (*simulation).ofJobs)
	jobsFailed  = lineOf("jobs_failed", func(t truth) float64 { return float64(t.failed) }, (*simulation).ofJobs)
)

// places are those of docs/pages.md, as "page: place".
var places = map[string]place{
	"system dashboard: card Ingest Rate":    cardOf(ingestChart),
	"system dashboard: card Queue Depth":    cardOf(queueChart),
	"system dashboard: card Pending Jobs":   cardOf(jobsPending),
	"system dashboard: card Failed Jobs":    cardOf(jobsFailed),
	"system dashboard: card Devices Online": cardOf(lineOf("devices_online", func(t truth) float64 { return float64(t.online) }, always)),
	"system dashboard: card Devices Stale":  cardOf(lineOf("devices_stale", func(t truth) float64 { return float64(t.stale) }, always)),
	"system dashboard: card Open Alerts":    cardOf(lineOf("alerts_open", func(t truth) float64 { return float64(t.open) }, always)),
	"system dashboard: card DB Connections": cardOf(connectionChart),
	"system dashboard: health":              serviceHealth,
	"system dashboard: capacity":            capacity,
	"system dashboard: aggregates":          aggregates,
	"system dashboard: errors":              failures,
	"operations centre: gauge Fleet Online": func(t *testing.T, s *simulation) (any, any) {
		registry, _ := s.route(t, "/aggregates devices")
		states, _ := s.route(t, "/aggregates device states")
		return float64(states[0].(int64)) / float64(registry[0].(int64)) * 100, float64(truthAt(s.step-1).online) / devices * 100
	},
	"operations centre: gauge Ingest Rate": func(t *testing.T, s *simulation) (any, any) {
		latest := s.latest(t)
		line := []point{{s.at(s.step - 1), -1}} // what the page falls back to would be wrong
		if value, ok := latest["ingest.ingest_rate"]; ok {
			line[0].Value = value
		}
		written := s.trueRate()
		true := s.trueLine(func(step int) float64 {
			if i := slices.IndexFunc(written, func(p point) bool { return p.At.Equal(s.at(step)) }); i >= 0 {
				return written[i].Value
			}
			return 0 // while ingest does not answer
		}, func(step int) bool { return step > 0 })
		return append(line, s.history(t, "ingest_rate", 60)...), append(true[len(true)-1:], true...)
	},
	"operations centre: gauge Open Alerts": openAlerts,
	"operations centre: gauge DB Conn Usage": func(t *testing.T, s *simulation) (any, any) {
		used, _ := s.route(t, "/health connections")
		return float64(used[0].(int32)) / float64(used[1].(int32)), s.connections(s.step-1, float64(used[0].(int32))) / float64(pgtest.Count(t, s.pool, "SELECT current_setting('max_connections')::int"))
	},
	"operations centre: chart Message Ingestion Rate": ingestChart,
	"operations centre: chart Alert Fire Rate": func(t *testing.T, s *simulation) (any, any) {
		opened := s.trueLine(func(step int) float64 { return max(0, float64(truthAt(step).open-truthAt(max(0, step-12)).open)) }, everyStep) // in a minute
		return ratedBetween(s.history(t, "alerts_open", 60)), opened[1:]
	},
	"operations centre: chart Worker Queue Depth":   queueChart,
	"operations centre: chart Database Connections": connectionChart,
	"operations centre: service strip":              serviceHealth,
	"metrics page: chart Ingest Rate":               ingestChart,
	"metrics page: Active Alerts":                   openAlerts,
	"metrics page: Device Status": func(t *testing.T, s *simulation) (any, any) {
		now := truthAt(s.step - 1)
		states, _ := s.route(t, "/aggregates device states")
		return fmt.Sprint(states[:3]), fmt.Sprint([]int{now.online, now.stale, now.offline})
	},
	"metrics page: Delivery Failures": func(t *testing.T, s *simulation) (any, any) {
		return s.latest(t)["delivery.jobs_failed"], float64(truthAt(s.step - 1).failed)
	},
	"operator home: health":     serviceHealth,
	"operator home: aggregates": aggregates,
	"operator home: open alerts": func(t *testing.T, s *simulation) (any, any) {
		return pgtest.Count(t, s.pool, "SELECT count(*) FROM fleet_alert WHERE status = 'OPEN'"), truthAt(s.step - 1).open
	},
	"operator home: errors": failures,
}

// Every place of the platform's pages shows the truth, but for those that docs/pages.md calls
// wrong: on either release, while ingest does not answer, and in the end.
func TestThePagesShowTheTruth(t *testing.T) {
	t.Parallel()
	for name, newest := range map[string]bool{"an older release": false, "the newest release": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSimulation(t, newest)
			s.run(t, 103)
			for _, where := range []string{"operations centre: gauge Ingest Rate", "system dashboard: health"} {
				if shown, true := places[where](t, s); !cmp.Equal(true, shown, nearly) {
					t.Errorf("%s, while ingest does not answer: %v, and the truth is %v", where, shown, true)
				}
			}
			s.run(t, pagesSteps)
			for where, wrong := range documentedPlaces(t) {
				compute, known := places[where]
				if !known {
					t.Errorf("docs/pages.md has %q, which is not computed here", where)
					continue
				}
				shown, true := compute(t, s)
				if diff := cmp.Diff(true, shown, nearly); (diff != "") != wrong {
					t.Errorf("%s (wrong: %t): what is shown (+) is not the truth (-): %s", where, wrong, diff)
				}
			}
		})
	}
	documented := documentedPlaces(t)
	for where := range places {
		if _, known := documented[where]; !known {
			t.Errorf("docs/pages.md lacks %q", where)
		}
	}
}

// nearly takes numbers for equal that differ by what floating point makes of them.
var nearly = cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, math.Abs(a)) })

// documentedPlaces are the places of docs/pages.md, and whether it calls what they show
// wrong on every release. Each series of a place is one that the pages own, or has its
// service.
func documentedPlaces(t *testing.T) map[string]bool {
	t.Helper()
	content, err := os.ReadFile("../docs/pages.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		cells := strings.Split(line, "|")
		if len(cells) != 9 || strings.Contains(cells[1], "---") || strings.TrimSpace(cells[1]) == "page" {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if series := strings.Trim(cells[4], "`"); series != "" && !strings.Contains(series, ".") && !slices.Contains(pageSeries, series) {
			t.Errorf("docs/pages.md: a page reads %s by name alone, and other services may write it", series)
		}
		found[cells[1]+": "+cells[2]] = strings.HasPrefix(cells[6], "**wrong**")
	}
	return found
}

package deploy

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/teststorage"

	"ops_worker/internal/pgtest"
	"ops_worker/internal/platformsim"
)

const (
	platformBoard = "grafana/platform.json"
	workerBoard   = "grafana/worker.json"
)

var registerPlugins = sync.OnceFunc(plugins.RegisterDefaultPlugins)

// readBoard reads a dashboard into Grafana's own model, the one that every release reads; its successor is for Grafana 12 and
// later. A field that the model does not know is an error; of a field that is missing Grafana knows the default.
func readBoard(t *testing.T, file string) (board dashboard.Dashboard) {
	t.Helper()
	registerPlugins()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &board); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	strict := func(what string, model interface{ UnmarshalJSONStrict([]byte) error }, content []byte) {
		err := model.UnmarshalJSONStrict(content)
		var problems cog.BuildErrors
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("%s: %s: %v", file, what, err)
		}
		for _, problem := range problems {
			if problem.Message != "required field is missing from input" {
				t.Errorf("%s: %s: %v", file, what, problem)
			}
		}
	}
	strict("dashboard", new(dashboard.Dashboard), content)
	// The model of a panel is not strict about these two parts.
	var parts struct {
		Panels []struct {
			Title       string
			FieldConfig json.RawMessage
			Targets     []json.RawMessage
		}
	}
	if err := json.Unmarshal(content, &parts); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, panel := range parts.Panels {
		strict(panel.Title, new(dashboard.FieldConfigSource), panel.FieldConfig)
		for _, target := range panel.Targets {
			if file == workerBoard {
				strict(panel.Title, new(prometheus.Dataquery), target)
			}
		}
	}
	return board
}

// panelsOf returns the panels without the rows.
func panelsOf(board dashboard.Dashboard) (panels []*dashboard.Panel) {
	for _, p := range board.Panels {
		if p.Panel != nil {
			panels = append(panels, p.Panel)
		}
	}
	return panels
}

func TestTheDashboardsAreTidy(t *testing.T) {
	t.Parallel()
	for _, file := range []string{platformBoard, workerBoard} {
		board := readBoard(t, file)
		if len(board.Panels) < 10 || board.Title == nil || board.SchemaVersion < 39 {
			t.Errorf("%s: %d panels, title %v, schema %d", file, len(board.Panels), board.Title, board.SchemaVersion)
		}
		if want := map[string]string{platformBoard: "ops-worker-platform", workerBoard: "ops-worker"}[file]; board.Uid == nil || *board.Uid != want {
			t.Errorf("%s: uid %v, want %s", file, board.Uid, want)
		}
		// Each board lists the other boards that have the tag of its link.
		if len(board.Links) != 1 || !slices.Equal(board.Links[0].Tags, board.Tags) || !slices.Equal(board.Tags, []string{"ops_worker"}) {
			t.Errorf("%s: tags %q, links %+v", file, board.Tags, board.Links)
		}
		for _, v := range board.Templating.List {
			if v.Type != "datasource" && (v.Datasource == nil || *v.Datasource.Uid != "${datasource}") {
				t.Errorf("%s: %s has not the data source that the user has chosen", file, v.Name)
			}
		}
		taken := map[[2]uint32]string{} // by the cell of the grid
		ids := map[uint32]bool{}
		place := func(title string, id *uint32, at *dashboard.GridPos) {
			if id == nil || *id == 0 || ids[*id] {
				t.Fatalf("%s: %s has no id of its own", file, title)
			}
			ids[*id] = true
			if at == nil || at.W == 0 || at.H == 0 || at.X+at.W > 24 {
				t.Errorf("%s: %s stands at %+v", file, title, at)
				return
			}
			for x := at.X; x < at.X+at.W; x++ {
				for y := at.Y; y < at.Y+at.H; y++ {
					if other := taken[[2]uint32{x, y}]; other != "" {
						t.Fatalf("%s: %s covers %s", file, title, other)
					}
					taken[[2]uint32{x, y}] = title
				}
			}
		}
		for _, p := range board.Panels {
			if p.RowPanel != nil {
				place(*p.RowPanel.Title, &p.RowPanel.Id, p.RowPanel.GridPos)
				continue
			}
			panel := p.Panel
			if panel.Title == nil || *panel.Title == "" || panel.Type == "" || len(panel.Targets) == 0 {
				t.Fatalf("%s: a panel without a title, a type or a query: %+v", file, panel)
			}
			place(*panel.Title, panel.Id, panel.GridPos)
			if panel.Datasource == nil || *panel.Datasource.Uid != "${datasource}" {
				t.Errorf("%s: %s has not the data source that the user has chosen", file, *panel.Title)
			}
			if unit := panel.FieldConfig.Defaults.Unit; (panel.Type == "timeseries" || panel.Type == "stat") && (unit == nil || *unit == "") {
				t.Errorf("%s: %s has no unit", file, *panel.Title)
			}
			// True would draw a line over an outage of any length.
			custom, err := json.Marshal(panel.FieldConfig.Defaults.Custom)
			if err != nil || strings.Contains(string(custom), `"spanNulls":true`) {
				t.Errorf("%s: %s shows no gap: %s, %v", file, *panel.Title, custom, err)
			}
		}
	}
}

// timeRange is what a user has chosen, with the interval that Grafana computes for it.
type timeRange struct {
	from, to time.Time
	interval string
}

// expandSQL replaces what Grafana replaces in a query of PostgreSQL:
// https://grafana.com/docs/grafana/latest/datasources/postgres/#macros, and .../#template-variables for the quoted list of
// a variable of several values. $__timeGroupAlias is that of a data source without its TimescaleDB option.
func expandSQL(t *testing.T, query string, r timeRange, services []string) string {
	t.Helper()
	var quoted []string
	for _, s := range services {
		quoted = append(quoted, "'"+strings.ReplaceAll(s, "'", "''")+"'")
	}
	from, to := "'"+r.from.UTC().Format(time.RFC3339Nano)+"'", "'"+r.to.UTC().Format(time.RFC3339Nano)+"'"
	interval, err := time.ParseDuration(r.interval)
	if err != nil {
		t.Fatal(err)
	}
	query = regexp.MustCompile(`\$__timeGroupAlias\((\w+), \$__interval, NULL\)`).
		ReplaceAllString(query, fmt.Sprintf(`floor(extract(epoch from $1)/%[1]v)*%[1]v AS "time"`, interval.Seconds()))
	query = regexp.MustCompile(`\$__timeFilter\((\w+)\)`).ReplaceAllString(query, "$1 BETWEEN "+from+" AND "+to)
	return strings.NewReplacer("$__timeFrom()", from, "$__timeTo()", to, "$service", strings.Join(quoted, ",")).Replace(query)
}

// sqlTarget is a query of Grafana's PostgreSQL data source, of which the models above know nothing.
type sqlTarget struct{ format, rawSQL string }

func sqlTargets(t *testing.T, panel *dashboard.Panel) (targets []sqlTarget) {
	t.Helper()
	for _, query := range panel.Targets {
		fields := query.(variants.UnknownDataquery)
		if keys := slices.Sorted(maps.Keys(fields)); !slices.Equal(keys, []string{"format", "rawSql", "refId"}) {
			t.Fatalf("%s: a query of %q", *panel.Title, keys)
		}
		target := sqlTarget{fields["format"].(string), fields["rawSql"].(string)}
		if target.format != "table" && target.format != "time_series" {
			t.Errorf("%s: format %s", *panel.Title, target.format)
		}
		targets = append(targets, target)
	}
	return targets
}

// answer is a table, with the number of values that are not NULL in each column.
type answer struct {
	columns []string
	rows    int
	values  []int
}

func ask(t *testing.T, pool *pgxpool.Pool, query string) (a answer, err error) {
	t.Helper()
	rows, err := pool.Query(t.Context(), query)
	if err != nil {
		return a, err
	}
	defer rows.Close()
	for _, field := range rows.FieldDescriptions() {
		a.columns = append(a.columns, field.Name)
	}
	a.values = make([]int, len(a.columns))
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return a, err
		}
		a.rows++
		for i, v := range values {
			if v != nil {
				a.values[i]++
			}
		}
	}
	return a, rows.Err()
}

// filledPlatform is the database of a worker that has seen a service fall ill and recover, and another one fall ill. Its
// samples are copied to each minute of the hour before.
func filledPlatform(t *testing.T) *pgtest.Database {
	t.Helper()
	database := pgtest.New(t)
	pool := database.Pool(t)
	if err := platformsim.Seed(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	ingest, ingestURL := simulated(t, "ingest")
	evaluator, evaluatorURL := simulated(t, "evaluator")
	w := startWorker(t, "DATABASE_URL="+database.URL, "INGEST_HEALTH_URL="+ingestURL, "EVALUATOR_HEALTH_URL="+evaluatorURL, "AGGREGATE_BUDGET=100%")
	incidents := func(condition string) func() bool {
		return func() bool {
			return pgtest.Count(t, pool, "SELECT count(*) FROM ops_worker_incidents WHERE "+condition) == 1
		}
	}
	w.await(t, "ingest is well", func(s scrape) bool { return s[state("ingest", "healthy")].value == 1 })
	ingest.SetOutage(true)
	pgtest.Eventually(t, "the alert of ingest opens", incidents("service = 'ingest' AND ended_at IS NULL"))
	ingest.SetOutage(false)
	evaluator.SetOutage(true)
	pgtest.Eventually(t, "the alert of ingest closes", incidents("service = 'ingest' AND ended_at IS NOT NULL"))
	pgtest.Eventually(t, "the alert of evaluator opens", incidents("service = 'evaluator' AND ended_at IS NULL"))
	database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, tags, value)
		SELECT time - n * interval '1 minute', metric_name, service, tags, value * (1 - n / 1000.0) FROM system_metrics, generate_series(1, 60) n`)
	database.Exec(t, "UPDATE ops_worker_watch SET began_at = began_at - interval '31 days'")
	return database
}

// readerOf makes the role of grafana/README.md, where nobody else has a right.
func readerOf(t *testing.T, database *pgtest.Database) (name string, pool *pgxpool.Pool) {
	t.Helper()
	content, err := os.ReadFile("grafana/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, statements, _ := strings.Cut(string(content), "```sql\n")
	_, statements, _ = strings.Cut(statements, "\n") // the role is made here
	statements, _, _ = strings.Cut(statements, "```")
	name, address := database.Role(t, "NOSUPERUSER")
	database.Exec(t, "ALTER TABLE fleet_alert ENABLE ROW LEVEL SECURITY; REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON DATABASE "+database.Name+" FROM PUBLIC")
	database.Exec(t, strings.NewReplacer("grafana", name, "iotcloud", database.Name).Replace(statements))
	return name, database.PoolAs(t, address)
}

func TestEverySQLQueryAnswers(t *testing.T) {
	t.Parallel()
	board := readBoard(t, platformBoard)
	database := filledPlatform(t)
	role, pool := readerOf(t, database)

	variable := board.Templating.List[1]
	services := pgtest.Rows(t, pool, *variable.Query.String)
	if variable.Name != "service" || !slices.Equal(services, []string{"evaluator", "ingest", "postgres"}) {
		t.Fatalf("the values of %s: %q", variable.Name, services)
	}
	selections := [][]string{services, nil} // nil is what a board shows before the first health check
	for _, s := range services {
		selections = append(selections, []string{s})
	}
	for _, panel := range panelsOf(board) {
		for _, target := range sqlTargets(t, panel) {
			if fills := strings.Contains(target.rawSQL, "$__timeGroupAlias(time, $__interval, NULL)"); fills != (target.format == "time_series") {
				t.Errorf("%s: a gap is not shown\n%s", *panel.Title, target.rawSQL)
			}
			// Of several series one may be missing without an empty answer.
			for _, list := range regexp.MustCompile(`metric_name (= '\w+'|IN \([^)]*\))`).FindAllString(target.rawSQL, -1) {
				for _, name := range regexp.MustCompile(`'(\w+)'`).FindAllStringSubmatch(list, -1) {
					if pgtest.Count(t, pool, "SELECT count(*) FROM system_metrics WHERE metric_name = $1", name[1]) == 0 {
						t.Errorf("%s: nobody stores %s\n%s", *panel.Title, name[1], target.rawSQL)
					}
				}
			}
			for _, chosen := range selections {
				got, err := ask(t, pool, expandSQL(t, target.rawSQL, lastHour(), chosen))
				wellAllTheTime := *panel.Title == "Incidents" && slices.Equal(chosen, []string{"postgres"})
				switch {
				case err != nil:
					t.Errorf("%s, %s: %v\n%s", *panel.Title, chosen, err, target.rawSQL)
				case got.rows == 0 && len(chosen) > 0 && !wellAllTheTime:
					t.Errorf("%s, %s: no rows\n%s", *panel.Title, chosen, target.rawSQL)
				case len(chosen) == len(services) && slices.Contains(got.values, 0):
					t.Errorf("%s: nothing but NULL in a column of %s, %d\n%s", *panel.Title, got.columns, got.values, target.rawSQL)
				case target.format == "time_series" && got.columns[0] != "time":
					t.Errorf("%s: a series without a time: %s", *panel.Title, got.columns)
				}
			}
		}
	}

	// Without any one of the rights, some panel fails.
	for _, relation := range pgtest.Rows(t, database.Pool(t), "SELECT table_name FROM information_schema.role_table_grants WHERE grantee = $1", role) {
		database.Exec(t, fmt.Sprintf("REVOKE SELECT ON %s FROM %s", relation, role))
		refused := false
		for _, panel := range panelsOf(board) {
			for _, target := range sqlTargets(t, panel) {
				_, err := ask(t, pool, expandSQL(t, target.rawSQL, lastHour(), services))
				refused = refused || err != nil && strings.Contains(err.Error(), "permission denied for")
			}
		}
		if !refused {
			t.Errorf("grafana/README.md grants %s, which no panel reads", relation)
		}
		database.Exec(t, fmt.Sprintf("GRANT SELECT ON %s TO %s", relation, role))
	}
}

// A restart is no fall, an outage is not hidden, and availability is of the time in which a service was watched.
func TestTheNumbersOfThePlatformAreRight(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	// Counters that grow by so many in five seconds and were restarted after half an hour; an ingest that has not answered since.
	database.Exec(t, `
		INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT now() - n * interval '5 seconds', m.name, m.service, CASE WHEN n > 360 THEN 1000000 ELSE 0 END + (720 - n) * m.growth
		FROM generate_series(720, 0, -1) n, (VALUES ('messages_rejected', 'ingest', 50), ('rules_evaluated', 'evaluator', 20), ('blocks_hit', 'postgres', 99), ('blocks_read', 'postgres', 1)) AS m (name, service, growth);
		INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT at, 'ingest_rate', 'ingest', CASE WHEN at < date_trunc('minute', now()) - interval '30 minutes' THEN 10 ELSE 0 END
		FROM generate_series(now() - interval '1 hour', now(), '5 seconds') at;
		INSERT INTO service_health (service, status, checked_at) VALUES ('ingest', 'healthy', now()), ('api', 'healthy', now() - interval '6 minutes');
		INSERT INTO ops_worker_lease (name, holder, epoch, acquired_at, expires_at, ttl) VALUES ('ops_worker', 'a', 1, now() - interval '3 hours', now() - interval '1 hour', '15 seconds');
		INSERT INTO ops_worker_watch (service, began_at, ended_at) VALUES ('ingest', now() - interval '8 days', now()), ('api', now() - interval '1 hour', now());
		INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'System Alerts');
		INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at, closed_at) VALUES
			('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:ingest', 'CLOSED', '', now() - interval '864 seconds', now()),
			('__system__', '__system__', '__system__', 'SYSTEM_HEALTH', 'system-health:ingest', 'CLOSED', '', now() - interval '2 days', now() - interval '2 days' + interval '6048 seconds')`)
	pool := database.Pool(t)
	board := readBoard(t, platformBoard)
	answerOf := func(title string, target int, columns string) []string {
		for _, panel := range panelsOf(board) {
			if *panel.Title == title {
				query := expandSQL(t, sqlTargets(t, panel)[target].rawSQL, lastHour(), []string{"api", "ingest"})
				return pgtest.Rows(t, pool, "SELECT DISTINCT "+columns+" FROM ("+query+") answer ORDER BY 1")
			}
		}
		t.Fatalf("there is no panel %s", title)
		return nil
	}
	for _, want := range []struct {
		title           string
		target          int
		columns, answer string
	}{
		{"Ingest rate", 0, `round(written::numeric, 6)::text`, "0.000000, 10.000000"},
		{"Ingest rate", 1, `round(rejected::numeric, 6)::text`, "10.000000"},
		{"Evaluator", 0, `metric, round(value::numeric, 6)::text`, "rules_evaluated 4.000000"},
		{"Cache hits", 0, `round("cache hits"::numeric, 6)::text`, "99.000000"},
		{"Availability", 0, `service, round("24 hours"::numeric, 2)::text, round("7 days"::numeric, 2)::text, round("30 days"::numeric, 2)::text`, "api - - -, ingest 99.00 98.86 -"},
		{"Services", 0, `service, state`, "api not checked, ingest healthy"},
		{"Leader", 0, `leader, round(extract(epoch FROM now() - since) / 60)::text`, "nobody 60"},
	} {
		if got := strings.Join(answerOf(want.title, want.target, want.columns), ", "); got != want.answer {
			t.Errorf("%s: %s, want %s", want.title, got, want.answer)
		}
	}
	database.Exec(t, "UPDATE ops_worker_lease SET expires_at = now() + interval '10 seconds'")
	if got := answerOf("Leader", 0, `leader, round(extract(epoch FROM now() - since) / 60)::text`); !slices.Equal(got, []string{"a 180"}) {
		t.Errorf("Leader: %q", got)
	}
}

func lastHour() timeRange {
	now := time.Now()
	return timeRange{from: now.Add(-time.Hour), to: now.Add(time.Minute), interval: "1m"}
}

// A week of samples is read by an index that begins with the name, and never as a whole.
func TestEverySQLQueryUsesTheIndex(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	var names, services []string
	for service, those := range storedSeries {
		for _, name := range those {
			names, services = append(names, name), append(services, service)
		}
	}
	database.Exec(t, `INSERT INTO system_metrics (time, metric_name, service, value)
		SELECT now() - n * interval '1 minute', metric_name, service, n
		FROM generate_series(7 * 24 * 60, 1, -1) n, unnest($1::text[], $2::text[]) AS series (metric_name, service)
		ORDER BY 1`, names, services)
	database.Exec(t, "VACUUM ANALYZE system_metrics")
	scans := 0
	byName := regexp.MustCompile(`idx_system_metrics_name_(service_)?time`)
	pool := database.Pool(t)
	now := time.Now()
	week := timeRange{from: now.Add(-7 * 24 * time.Hour), to: now, interval: "10m"}
	for _, panel := range panelsOf(readBoard(t, platformBoard)) {
		for _, target := range sqlTargets(t, panel) {
			for _, r := range []timeRange{week, lastHour()} {
				plan := strings.Join(pgtest.Rows(t, pool, "EXPLAIN "+expandSQL(t, target.rawSQL, r, []string{"ingest", "evaluator", "postgres"})), "\n")
				for _, scan := range regexp.MustCompile(`.*Scan.* on (system_metrics|idx_system_metrics\w*).*`).FindAllString(plan, -1) {
					scans++
					if !byName.MatchString(scan) && !strings.Contains(scan, "Bitmap Heap Scan") {
						t.Errorf("%s: %s\n%s", *panel.Title, target.rawSQL, plan)
					}
				}
			}
		}
	}
	if scans < 30 {
		t.Errorf("only %d scans of system_metrics are planned", scans)
	}
}

// storedSeries are some of what a worker stores, by their service.
var storedSeries = map[string][]string{
	"ingest":    {"messages_received", "messages_written", "messages_rejected", "ingest_rate", "queue_depth", "healthy", "latency_ms"},
	"evaluator": {"rules_evaluated", "alerts_created", "evaluation_errors", "healthy", "latency_ms"},
	"postgres": {"connections", "connections_max", "db_size_bytes", "healthy", "latency_ms", "transactions_committed", "transactions_rolled_back",
		"blocks_hit", "blocks_read", "temp_bytes", "deadlocks", "longest_transaction_seconds", "locks_waiting", "oldest_xid_age", "wal_bytes", "table_bytes"},
	"delivery": {"jobs_succeeded", "jobs_failed", "jobs_pending"},
	"platform": {"devices_online", "devices_stale", "devices_offline", "alerts_open", "deliveries_pending", "deliveries_24h", "deliveries_failed"},
}

// expandPromQL replaces what Grafana replaces in a query of Prometheus; $__rate_interval is four scrape intervals for a short
// range: https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
func expandPromQL(query string, job string, instances []string) string {
	var quoted []string
	for _, i := range instances {
		quoted = append(quoted, strings.ReplaceAll(regexp.QuoteMeta(i), `\`, `\\`))
	}
	return strings.NewReplacer("$__rate_interval", (4 * scrapeInterval).String(), "$job", job, "$instance", "("+strings.Join(quoted, "|")+")").Replace(query)
}

func TestEveryPromQLQueryAnswers(t *testing.T) {
	t.Parallel()
	board := readBoard(t, workerBoard)
	database := pgtest.New(t)
	_, ingestURL := simulated(t, "ingest")
	_, evaluatorURL := simulated(t, "evaluator")
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(secure.Close)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, "DATABASE_URL="+database.URL, "INGEST_HEALTH_URL="+ingestURL, "EVALUATOR_HEALTH_URL="+evaluatorURL,
		"HEALTH_SERVICES=api="+secure.URL, "HEALTH_CA_FILE="+authority)
	w.await(t, "the worker stores", func(s scrape) bool { return s["ops_worker_stored_samples_total"].value > 0 })
	seen := w.watch(t, 12) // two health cycles at least
	data := teststorage.New(t)
	end := play(t, data, time.Now(), seen, func(time.Time) {})

	jobs := labelValues(t, data, end, *board.Templating.List[1].Query.String)
	for _, job := range jobs {
		instances := labelValues(t, data, end, expandPromQL(*board.Templating.List[2].Query.String, job, nil))
		selections := [][]string{instances}
		for _, i := range instances {
			selections = append(selections, []string{i})
		}
		for _, chosen := range selections {
			for _, panel := range panelsOf(board) {
				for _, query := range panel.Targets {
					target := query.(*prometheus.Dataquery)
					expanded := expandPromQL(target.Expr, job, chosen)
					begin := end.Add(-phase / 2)
					if target.Instant != nil && *target.Instant {
						begin = end
					}
					if points := count(evaluate(t, data, expanded, begin, end)); points == 0 {
						t.Errorf("%s: no points of %s", *panel.Title, expanded)
					}
				}
			}
		}
	}
	if len(jobs) != 1 {
		t.Errorf("jobs %q", jobs)
	}
}

// A stat that shows names is blank without a series, so nobody is a series too.
func TestTheLeaderPanelSaysThatNobodyLeads(t *testing.T) {
	t.Parallel()
	leader := panelsOf(readBoard(t, workerBoard))[0]
	query := expandPromQL(leader.Targets[0].(*prometheus.Dataquery).Expr, job, nil)
	for _, c := range []struct {
		a, b  float64
		names string
	}{{0, 0, "nobody 0"}, {0, 1, "b 1"}} {
		data, now := teststorage.New(t), time.Now()
		held := func(instance string, value float64) sample {
			return sample{labels.FromStrings("__name__", "ops_worker_lease_held", "job", job, "instance", instance), value}
		}
		appendSamples(t, data, now, held("a", c.a), held("b", c.b))
		for _, at := range []time.Time{now, now.Add(time.Hour)} { // an hour later all replicas are gone
			want := c.names
			if at != now {
				want = "nobody 0"
			}
			var got []string
			for _, series := range evaluate(t, data, query, at, at) {
				got = append(got, fmt.Sprint(series.Metric.Get("instance"), " ", series.Floats[0].F))
			}
			if !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %q, want %s", *leader.Title, got, want)
			}
		}
	}
}

// labelValues answers a query of a variable as Grafana does.
func labelValues(t *testing.T, data *teststorage.TestStorage, at time.Time, query string) []string {
	t.Helper()
	part := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(query)
	if part == nil {
		t.Fatalf("not a query for values: %s", query)
	}
	values := map[string]bool{}
	for _, series := range evaluate(t, data, part[1], at, at) {
		values[series.Metric.Get(part[2])] = true
	}
	return slices.Sorted(maps.Keys(values))
}

func evaluate(t *testing.T, data *teststorage.TestStorage, query string, begin, end time.Time) promql.Matrix {
	t.Helper()
	q, err := engine(t).NewRangeQuery(t.Context(), data, nil, query, begin, end, scrapeInterval)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer q.Close()
	matrix, err := q.Exec(t.Context()).Matrix()
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	// The query's end gives its memory back.
	copied := slices.Clone(matrix)
	for i := range copied {
		copied[i].Floats = slices.Clone(copied[i].Floats)
	}
	return copied
}

// count is the number of points that a chart can show.
func count(matrix promql.Matrix) (points int) {
	for _, series := range matrix {
		for _, p := range series.Floats {
			if !math.IsNaN(p.F) {
				points++
			}
		}
	}
	return points
}

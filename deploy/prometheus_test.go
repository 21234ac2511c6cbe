package deploy

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"

	"ops_worker/internal/pgserver"
	"ops_worker/internal/pgtest"
)

const ruleFile = "prometheus/rules.yaml"

// With Prometheus's own test of rules. The tag leaves out the service discovery of every cloud.
func TestTheAlertRulesOnSeriesByHand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"check", "rules", "--lint=all", "--lint-fatal", ruleFile}, {"test", "rules", "prometheus/rules_test.yaml"}} {
		promtool := append([]string{"run", "-tags", "remove_all_sd", "github.com/prometheus/prometheus/cmd/promtool"}, args...)
		if output, err := exec.CommandContext(t.Context(), "go", promtool...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, output)
		}
	}
}

// alertRules loads the rules, which read from the storage.
func alertRules(t *testing.T, on *teststorage.TestStorage) *rules.Group {
	t.Helper()
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc:    rules.EngineQueryFunc(engine(t), on),
		AppendableV2: on,
		Context:      t.Context(),
		NotifyFunc:   func(context.Context, string, ...*rules.Alert) {},
		Parser:       parser.NewParser(parser.Options{}),
	})
	groups, errs := manager.LoadGroups(scrapeInterval, labels.EmptyLabels(), "", nil, false, ruleFile)
	if len(errs) > 0 || len(groups) != 1 {
		t.Fatalf("%d groups: %v", len(groups), errs)
	}
	for _, group := range groups {
		return group
	}
	return nil
}

// engine is Prometheus's own at its defaults.
func engine(t *testing.T) *promql.Engine {
	t.Helper()
	return promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
		Parser: parser.NewParser(parser.Options{}),
	})
}

// Whoever is woken up finds out what is wrong and what to do.
func TestEveryAlertRuleSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, rule := range alertRules(t, teststorage.New(t)).Rules() {
		alert := rule.(*rules.AlertingRule)
		if severity := alert.Labels().Get("severity"); severity != "warning" && severity != "critical" {
			t.Errorf("%s: severity %q", alert.Name(), severity)
		}
		if alert.HoldDuration() == 0 {
			t.Errorf("%s: no for", alert.Name())
		}
		for _, annotation := range []string{"summary", "description", "runbook_url"} {
			if alert.Annotations().Get(annotation) == "" {
				t.Errorf("%s: no %s", alert.Name(), annotation)
			}
		}
	}
}

// A heading's anchor is as GitHub makes it.
func TestEveryRunbookIsAHeadingOfTheOperationPage(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	var runbooks []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(content), -1) {
		words := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		runbooks = append(runbooks, "docs/operation.md#"+strings.ReplaceAll(words, " ", "-"))
	}
	for _, rule := range alertRules(t, teststorage.New(t)).Rules() {
		alert := rule.(*rules.AlertingRule)
		if runbook := alert.Annotations().Get("runbook_url"); !slices.Contains(runbooks, runbook) {
			t.Errorf("%s: there is no heading for %s", alert.Name(), runbook)
		}
	}
}

const (
	scrapeInterval = 15 * time.Second
	phase          = 10 * time.Minute
)

// play draws a stretch of a worker out to a phase, and scrapes it at each interval. An empty stretch is a target that is down.
func play(t *testing.T, data *teststorage.TestStorage, begin time.Time, s stretch, scraped func(time.Time)) (end time.Time) {
	t.Helper()
	target := labels.FromStrings("__name__", "up", "job", job, "instance", instance)
	for end = begin; end.Before(begin.Add(phase)); {
		end = end.Add(scrapeInterval)
		samples := s.at(end.Sub(begin).Seconds())
		appendSamples(t, data, end, append(samples, sample{target, float64(min(len(samples), 1))})...)
		scraped(end)
	}
	return end
}

// firing plays stretches of a worker and returns what fires at the end.
func firing(t *testing.T, stretches ...stretch) []string {
	t.Helper()
	data := teststorage.New(t)
	group := alertRules(t, data)
	now := time.Now()
	for i, s := range stretches {
		if i > 0 && len(s.from) == 0 { // Prometheus marks what a target no longer shows
			for _, gone := range stretches[i-1].at(0) {
				appendSamples(t, data, now.Add(time.Second), sample{gone.labels, math.Float64frombits(value.StaleNaN)})
			}
		}
		now = play(t, data, now, s, func(at time.Time) { group.Eval(t.Context(), at) })
	}
	var found []string
	for _, rule := range group.Rules() {
		if err := rule.LastError(); err != nil {
			t.Errorf("%s: %v", rule.Name(), err)
		}
		for _, alert := range rule.(*rules.AlertingRule).ActiveAlerts() {
			if alert.State == rules.StateFiring {
				found = append(found, strings.TrimSpace(rule.Name()+" "+alert.Labels.Get("monitored")))
			}
		}
	}
	slices.Sort(found)
	return found
}

func appendSamples(t *testing.T, data *teststorage.TestStorage, at time.Time, samples ...sample) {
	t.Helper()
	appender := data.AppenderV2(t.Context())
	for _, s := range samples {
		if _, err := appender.Append(0, s.labels, 0, at.UnixMilli(), s.value, nil, nil, storage.AppendV2Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := appender.Commit(); err != nil {
		t.Fatal(err)
	}
}

func state(service, state string) string {
	return fmt.Sprintf("ops_worker_service_state{monitored=%q,state=%q}", service, state)
}

func TestTheAlertRulesOnAWorkerThatBreaks(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	ingest, ingestURL := simulated(t, "ingest")
	_, evaluatorURL := simulated(t, "evaluator")
	start := func() *worker {
		return startWorker(t, "DATABASE_URL="+database.URL, "INGEST_HEALTH_URL="+ingestURL, "EVALUATOR_HEALTH_URL="+evaluatorURL)
	}
	isWell := func(s scrape) bool {
		return s[state("ingest", "healthy")].value == 1 && s[state("postgres", "healthy")].value == 1 && s["ops_worker_buffered_cycles"].value == 0 &&
			s["ops_worker_stored_samples_total"].value > 0
	}
	wantFiring := func(what string, stretches []stretch, want ...string) {
		if got := firing(t, stretches...); !slices.Equal(got, want) {
			t.Errorf("%s: %q fires, want %q", what, got, want)
		}
	}

	first := start()
	first.await(t, "the worker is well", isWell)
	well := first.watch(t, 3)
	wantFiring("a worker that is well", []stretch{well, well})

	ingest.SetOutage(true)
	first.await(t, "ingest is ill", func(s scrape) bool { return s[state("ingest", "degraded")].value == 1 })
	wantFiring("a service answers 503", []stretch{well, first.watch(t, 3)}, "OpsWorkerServiceNotHealthy ingest")
	ingest.SetOutage(false)
	first.await(t, "the worker is well again", isWell)

	comeBack := goAway(t, database)
	first.await(t, "the database is away", func(s scrape) bool {
		return s[state("postgres", "healthy")].value == 0 && s["ops_worker_buffered_cycles"].value > 0
	})
	wantFiring("the database is away", []stretch{well, first.watch(t, 3)}, "OpsWorkerBufferGrows", "OpsWorkerServiceNotHealthy postgres")
	comeBack()
	first.await(t, "the buffer is empty again", isWell)

	first.stop()
	wantFiring("the worker is stopped", []stretch{well, {}}, "OpsWorkerIsGone")

	second := start()
	second.await(t, "the next worker is well", isWell)
	wantFiring("the next worker", []stretch{well, second.watch(t, 3)})
}

// goAway ends every connection to the database and lets nobody in until comeBack is called.
func goAway(t *testing.T, database *pgtest.Database) (comeBack func()) {
	t.Helper()
	server, err := url.Parse(database.URL)
	if err != nil {
		t.Fatal(err)
	}
	server.Path = "/postgres" // a session cannot shut its own database
	run := func(statement string) {
		t.Helper()
		err := pgserver.Execute(t.Context(), server.String(), func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, statement, database.Name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	run("UPDATE pg_database SET datallowconn = false WHERE datname = $1")
	run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
	return func() { t.Helper(); run("UPDATE pg_database SET datallowconn = true WHERE datname = $1") }
}

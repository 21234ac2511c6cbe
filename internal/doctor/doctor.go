// Package doctor examines the worker's surroundings: its settings, the database
// it was given, the services it asks, and whether it is the only one that
// collects. It does what the worker does and rolls it back. So it changes nothing;
// it never shows a secret, and it always ends: each check has a deadline, and so
// has the whole.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/probe"
)

// Result is the verdict of one check.
type Result string

// The verdicts. Skipped is a check that could not run because of what an
// earlier one found, and says nothing about its subject.
const (
	OK      Result = "ok"
	Warn    Result = "warn"
	Fail    Result = "fail"
	Skipped Result = "skipped"
)

// Check is what one check found and what to do about it, a line each.
type Check struct {
	Name   string   `json:"name"`
	Result Result   `json:"result"`
	Found  []string `json:"found"`
	Advice []string `json:"advice,omitempty"`
}

// Report holds every check, in their order.
type Report struct {
	Checks []Check `json:"checks"`
}

// ExitCode is 0 when all is well, 1 with warnings, 2 with failures.
func (r Report) ExitCode() int {
	code := 0
	for _, c := range r.Checks {
		switch c.Result {
		case Warn:
			code = max(code, 1)
		case Fail:
			code = 2
		}
	}
	return code
}

// limits bound the examination. With these the whole ends in less than 30 s,
// whatever hangs.
type limits struct{ total, check time.Duration }

var defaultLimits = limits{total: 25 * time.Second, check: 5 * time.Second}

// Run examines what cfg describes. settings is the error that loading cfg gave;
// with one, cfg is not there and only the settings can be judged. aggregates are those
// that the worker counts.
func Run(ctx context.Context, cfg config.Config, settings error, aggregates []db.Aggregate) Report {
	r := &run{cfg: cfg, settings: settings, aggregates: aggregates, limits: defaultLimits}
	return r.report(ctx)
}

// check is one row of the table of checks. Its function adds what it finds to f;
// an error it returns is a failure of its own, or a skip.
type check struct {
	name string
	// offline marks the checks that run without a connection too.
	offline bool
	judge   func(ctx context.Context, r *run, f *findings) error
}

// checks is the table, in the order of the report. To extend it, add a row.
var checks = []check{
	{name: "settings", offline: true, judge: checkSettings},
	{name: "connection", offline: true, judge: checkConnection},
	{name: "encryption", judge: checkEncryption},
	{name: "server version", judge: checkVersion},
	{name: "connections", judge: checkConnections},
	{name: "database", judge: checkDatabase},
	{name: "role", judge: checkRole},
	{name: "schema", judge: checkSchema},
	{name: "writes", judge: checkWrites},
	{name: "routes", judge: checkRoutes},
	{name: "timescaledb", judge: checkTimescale},
	{name: "services", offline: true, judge: checkServices},
	{name: "lease", judge: checkLease},
	{name: "other writer", judge: checkOtherWriter},
	{name: "aggregates", judge: checkAggregates}, // after the lease, which knows the interval
	{name: "system alerts", judge: checkSystemAlerts},
}

// run is one examination. The checks follow one another, so what one learns for
// those behind it needs no lock.
type run struct {
	cfg        config.Config
	settings   error
	aggregates []db.Aggregate
	limits     limits
	resolver   probe.Resolver // of the services' names; nil is Go's own

	database *database
	services *services

	// What the checks of these names learn.
	connection connection
	refused    bool // the worker takes no such database
	role       db.DoctorRoleRow
	pending    bool // migrations are
	lease      leaseState
}

func (r *run) report(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, r.limits.total)
	free := func() {}
	if r.settings == nil {
		free = r.open(ctx)
	}
	defer func() {
		cancel() // what still runs in the background ends before what it uses is freed
		free()
	}()
	report := Report{Checks: make([]Check, 0, len(checks))}
	for _, c := range checks {
		report.Checks = append(report.Checks, r.examine(ctx, c))
	}
	return report
}

// open makes the pool and begins to probe the services. The function it returns frees
// both, hung or not.
func (r *run) open(ctx context.Context) (free func()) {
	r.database = openDatabase(ctx, r.cfg, r.limits.check)
	r.services = probeServices(ctx, r.cfg, r.resolver, r.database.ping, r.limits.check*9/10) // less than the check that waits for it has
	return func() {
		r.services.probing.Wait()
		r.database.close()
	}
}

// examine runs one check, or says why it cannot be run.
func (r *run) examine(ctx context.Context, c check) Check {
	f := &findings{result: OK}
	var err error
	switch {
	case r.settings != nil && c.name != checks[0].name:
		err = skip("the settings are wrong")
	case ctx.Err() != nil:
		err = skip("the time for all checks together, %s, was over", r.limits.total)
	case !c.offline && !r.connection.stands:
		err = skip("there is no connection to the database")
	case !c.offline && r.refused:
		err = skip("the worker refuses this database")
	default:
		limited, cancel := context.WithTimeout(ctx, r.limits.check)
		err = c.judge(limited, r, f)
		cancel()
	}
	var skipped skipError
	switch {
	case err == nil:
	case errors.As(err, &skipped):
		f.skip(string(skipped))
	case r.pending && db.IsMissingTable(err):
		f.skip(serverWords(err) + ", as migrations are pending")
	case db.IsLocked(err):
		f.warn(lockedAdvice, lockedWords)
	case errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err):
		f.fail("", "no answer within %s", r.limits.check)
	default:
		f.fail(r.advice(err), "%s", serverWords(err))
	}
	return Check{Name: c.name, Result: f.result, Found: f.found, Advice: f.advice}
}

// serverWords are the server's message alone, or else the error's.
func serverWords(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Message
	}
	return err.Error()
}

// startMakesIt is the advice for what a pending migration makes.
const startMakesIt = "nothing, if the worker is about to be started: it makes what is missing; else `ops-worker migrate up`"

// advice is what lets the server take a statement that it refused.
func (r *run) advice(err error) string {
	var refused *pgconn.PgError
	switch {
	case !errors.As(err, &refused):
		return ""
	case db.IsForbidden(err):
		return r.grants()
	case db.IsMissingTable(err):
		return "restart the worker, or `ops-worker migrate up`: it makes what is missing, a view where a successor of the table stands"
	case refused.Code == "42703": // undefined_column
		return "run the platform's migrator to its end; the worker alters no table that stands"
	case refused.Hint != "":
		return refused.Hint
	}
	return ""
}

// grants is the command that gives the worker its rights.
func (r *run) grants() string {
	return fmt.Sprintf("as a superuser or the tables' owner: ops-worker grants %s | psql", r.connection.server.LoginRole)
}

// findings gathers what a check finds; the worst verdict is the check's.
type findings struct {
	result        Result
	found, advice []string
}

// note adds a finding, which is one line whatever stands in it.
func (f *findings) note(format string, args ...any) {
	f.found = append(f.found, humanize.OneLine(fmt.Sprintf(format, args...)))
}

// warn and fail add a finding and, unless it is empty, what to do about it.
func (f *findings) warn(advice, format string, args ...any) { f.add(Warn, advice, format, args) }
func (f *findings) fail(advice, format string, args ...any) { f.add(Fail, advice, format, args) }

// skip ends a check that could not go on; what it has found before stands.
func (f *findings) skip(reason string) {
	f.note("%s", reason)
	if f.result == OK {
		f.result = Skipped
	}
}

func (f *findings) add(result Result, advice, format string, args []any) {
	if f.result != Fail {
		f.result = result
	}
	f.note(format, args...)
	advice = humanize.OneLine(advice)
	if advice != "" && !slices.Contains(f.advice, advice) {
		f.advice = append(f.advice, advice)
	}
}

// skipError says why a check could not be made.
type skipError string

func (e skipError) Error() string { return string(e) }

func skip(format string, args ...any) error { return skipError(fmt.Sprintf(format, args...)) }

// latency is a short duration for people.
func latency(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

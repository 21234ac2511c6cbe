// Package doctor examines the worker's surroundings: its settings, the database
// it was given, the services it asks, and whether it is the only one that
// collects. It changes nothing, never shows a secret, and always ends: each check
// has a deadline, and so has the whole.
package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/probe"
	"ops_worker/internal/schema"
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
type limits struct{ total, check, closing time.Duration }

var defaultLimits = limits{total: 25 * time.Second, check: 5 * time.Second, closing: 2 * time.Second}

// Run examines what cfg describes. settings is the error that loading cfg gave;
// with one, cfg is not there and only the settings can be judged.
func Run(ctx context.Context, cfg config.Config, settings error) Report {
	r := &run{cfg: cfg, settings: settings, limits: defaultLimits, now: time.Now}
	return r.report(ctx)
}

// check is one row of the table of checks. Its function adds what it finds to f;
// an error it returns is a failure of its own, or a skip.
type check struct {
	name string
	// offline marks the checks that need no database.
	offline bool
	judge   func(ctx context.Context, r *run, f *findings) error
}

// checks is the table, in the order of the report. To extend it, add a row.
var checks = []check{
	{name: "settings", offline: true, judge: checkSettings},
	{name: "connection", offline: true, judge: checkConnection},
	{name: "server version", judge: checkVersion},
	{name: "encryption", judge: checkEncryption},
	{name: "pooler", judge: checkPooler},
	{name: "role", judge: checkRole},
	{name: "privileges", judge: checkPrivileges},
	{name: "row security", judge: checkRowSecurity},
	{name: "schema", judge: checkSchema},
	{name: "migrator", judge: checkMigrator},
	{name: "tables", judge: checkTables},
	{name: "stand-ins", judge: checkStandIns},
	{name: "timescaledb", judge: checkTimescale},
	{name: "clock", judge: checkClock},
	{name: "services", offline: true, judge: checkServices},
	{name: "lease", judge: checkLease},
	{name: "aggregates", judge: checkAggregates},
	{name: "samples", judge: checkSamples},
	{name: "other writer", judge: checkOtherWriter},
	{name: "connected", judge: checkConnected},
	{name: "health rows", judge: checkHealthRows},
	{name: "system alerts", judge: checkSystemAlerts},
	{name: "size", judge: checkSize},
}

// run is one examination. The checks follow one another, so what they learn
// needs no lock.
type run struct {
	cfg      config.Config
	settings error
	limits   limits
	now      func() time.Time // this machine's clock
	resolver probe.Resolver   // of the services' names; nil is Go's own

	pool    *pgxpool.Pool
	sockets sockets
	targets []probe.Target
	probed  chan []probe.Observation
	mixed   mixedAddresses // whole when they are probed

	// unusable says why the database cannot be asked; empty while it can.
	unusable string
	failed   []string // the checks that failed so far
	// Known once the connection stands.
	server db.DoctorServerRow
	link   link

	session    cached[session]
	role       cached[db.DoctorRoleRow]
	relations  cached[map[string]schema.Relation]
	plans      cached[[]refusal]
	migrations cached[migrationState]
	timescale  cached[*timescale]
	lease      cached[leaseState]
	observed   cached[[]probe.Observation]
	expected   cached[[]series]
	counting   cached[[]counted]
}

// link is the client's side of the connection.
type link struct {
	local, remote net.Addr
	tls           bool
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
		done := r.examine(ctx, c)
		report.Checks = append(report.Checks, done)
		if done.Result == Fail {
			r.failed = append(r.failed, c.name)
		}
	}
	return report
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
	case !c.offline && r.unusable != "":
		err = skip("%s", r.unusable)
	default:
		limited, cancel := context.WithTimeout(ctx, r.limits.check)
		err = c.judge(limited, r, f)
		cancel()
	}
	var skipped *skipError
	switch err = r.known(err); {
	case errors.As(err, &skipped):
		f.result = Skipped
		f.found = append(f.found, skipped.reason)
	case errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err):
		f.fail("", "no answer within %s", r.limits.check)
	case err != nil:
		f.fail("", "%s", humanize.OneLine(err.Error()))
	}
	return Check{Name: c.name, Result: f.result, Found: f.found, Advice: f.advice}
}

// known makes a skip of a server's error that an earlier check has explained.
func (r *run) known(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	explained := ""
	switch pgErr.Code {
	case privilegeCode:
		explained = "privileges"
		if db.IsRowSecurity(err) {
			explained = "row security"
		}
	case relationCode, columnCode:
		explained = "tables"
	}
	if !slices.Contains(r.failed, explained) {
		return err
	}
	return skip("see %s: %s", explained, humanize.OneLine(pgErr.Message))
}

// open makes the pool, which connects when it is first used, and begins to
// probe the services. The function it returns frees both, hung or not.
func (r *run) open(ctx context.Context) (free func()) {
	client := probe.ClientOf(r.cfg)
	if r.resolver != nil {
		client.Resolver = r.resolver
	}
	r.targets = probe.Targets(r.cfg.Services, client, func(ctx context.Context) error {
		if r.pool == nil {
			return errors.New("no connection")
		}
		_, err := db.New(r.pool).Now(ctx)
		return err
	})
	r.unusable = "there is no connection to the database"
	options := r.cfg.DatabaseOptions()
	options.MinConns, options.MaxConns = 0, maxConnections
	options.ConnectTimeout = min(options.ConnectTimeout, r.limits.check)
	options.ApplicationName = r.applicationName()
	if poolConfig, err := db.PoolConfig(options); err == nil {
		poolConfig.ConnConfig.DialFunc = r.sockets.dial
		// An error would be one of the configuration, which has been validated.
		if pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), poolConfig); err == nil {
			r.pool = pool
		}
	}
	r.mixed.watch(r.targets)
	var probing sync.WaitGroup
	r.probed = make(chan []probe.Observation, 1)
	probing.Go(func() {
		began := time.Now()
		limit := r.limits.check * 9 / 10 // the check that waits for it must not end first
		finding, cancel := context.WithTimeout(ctx, limit/2)
		client.FindInstances(finding, zerolog.Nop())
		cancel()
		r.probed <- probe.Observe(ctx, r.targets, limit-time.Since(began))
	})

	return func() {
		probing.Wait()
		if r.pool != nil {
			closed := make(chan struct{})
			go func() {
				defer close(closed)
				r.pool.Close()
			}()
			timer := time.NewTimer(r.limits.closing)
			defer timer.Stop()
			select {
			case <-closed:
			case <-timer.C:
				// A server that hangs is not waited for: pgx would, 15 s long.
				r.sockets.closeAll()
				<-closed
			}
		}
	}
}

// maxConnections are one for the checks, one to hold beside it where the
// pooler's mode is found out, and one for the probe of the database.
const maxConnections = 3

// applicationName tells the doctor's own sessions from the worker's.
func (r *run) applicationName() string { return r.cfg.ServiceName + "_doctor" }

// read runs fn in a read-only transaction that sees one snapshot.
func (r *run) read(ctx context.Context, fn func(*db.Queries) error) error {
	return r.readOn(ctx, r.pool, fn)
}

func (r *run) readOn(ctx context.Context, on db.Beginner, fn func(*db.Queries) error) error {
	return db.InTx(ctx, on, db.Snapshot, r.limits.check, fn)
}

// cached is something learned once, when a check first asks for it; an error is
// learned as well, so that a query that hangs does so once.
type cached[T any] struct {
	known bool
	value T
	err   error
}

func (c *cached[T]) get(learn func() (T, error)) (T, error) {
	if !c.known {
		c.known = true
		c.value, c.err = learn()
	}
	return c.value, c.err
}

// findings gathers what a check finds; the worst verdict is the check's.
type findings struct {
	result        Result
	found, advice []string
}

func (f *findings) note(format string, args ...any) {
	f.found = append(f.found, fmt.Sprintf(format, args...))
}

// warn and fail add a finding and, unless it is empty, what to do about it.
func (f *findings) warn(advice, format string, args ...any) { f.add(Warn, advice, format, args) }
func (f *findings) fail(advice, format string, args ...any) { f.add(Fail, advice, format, args) }

func (f *findings) add(result Result, advice, format string, args []any) {
	if f.result != Fail {
		f.result = result
	}
	f.note(format, args...)
	f.advise(advice)
}

// advise adds a line of advice, once.
func (f *findings) advise(advice string) {
	for _, given := range f.advice {
		if given == advice {
			return
		}
	}
	if advice != "" {
		f.advice = append(f.advice, advice)
	}
}

// skipError says why a check could not be made.
type skipError struct{ reason string }

func (e *skipError) Error() string { return e.reason }

func skip(format string, args ...any) error {
	return &skipError{fmt.Sprintf(format, args...)}
}

// sockets remembers the connections to the database, to cut those that hang.
type sockets struct {
	mu   sync.Mutex
	open []net.Conn
}

func (s *sockets) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{KeepAlive: 5 * time.Minute}).DialContext(ctx, network, address)
	if err == nil {
		s.mu.Lock()
		s.open = append(s.open, conn)
		s.mu.Unlock()
	}
	return conn, err
}

func (s *sockets) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.open {
		_ = conn.Close() // most are closed already
	}
}

// linkOf reads the client's side of a connection.
func linkOf(conn *pgconn.PgConn) link {
	socket := conn.Conn()
	_, encrypted := socket.(*tls.Conn)
	return link{local: socket.LocalAddr(), remote: socket.RemoteAddr(), tls: encrypted}
}

package faulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"ops_worker/internal/contracttest"
	"ops_worker/internal/pgserver"
	"ops_worker/internal/schema"
)

// What the suite runs the workers with: fast, so that faults show quickly. The
// promises scale with these two.
const (
	interval       = 250 * time.Millisecond
	leaseTTL       = 2 * time.Second
	healthInterval = 5 * time.Second // the shortest there is

	// righting is how long service_health and the alerts may be wrong after the
	// samples are right again, with some of a loaded machine's time.
	righting = 2*healthInterval + 3*time.Second
)

// binary is the worker, built once, with the race detector where the tests have
// it.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		return m.Run() // which skips everything that would need the binary
	}
	dir, err := os.MkdirTemp("", "ops-worker-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "ops-worker")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	if output, err := exec.Command("go", append(args, "ops_worker/cmd/ops-worker")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the worker: %v\n%s", err, output)
		return 1
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
			code = 1
		}
	}
	return code
}

// rig is a database, a proxy before it, services, and workers to break.
type rig struct {
	t        *testing.T
	server   *pgserver.Server
	direct   *pgxpool.Pool // past every fault
	proxy    *proxy
	database *url.URL     // through the proxy
	evaluate atomic.Int32 // the status that the evaluator answers with
	hang     atomic.Bool  // ingest accepts and does not answer
	services []string
	workers  []*worker
	began    time.Time
}

// What a worker may hold after any fault: 4 connections to the database and the
// services' own, besides the runtime's; and its memory, the race detector's
// several times over included.
const maxDescriptors = 30

func maxKilobytes() int {
	if raceEnabled {
		return 400 << 10
	}
	return 40 << 10
}

// newRig starts a server of the test's own, since faults are the whole server's.
func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	server, err := pgserver.StartBinaries(t.Context())
	if errors.Is(err, pgserver.ErrNoBinaries) {
		t.Skipf("faults need a PostgreSQL that can be stopped and started: %v (Debian: apt-get install postgresql)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Create(t.Context(), "iotcloud"); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, server: server}
	r.direct, err = pgxpool.New(t.Context(), server.URL("iotcloud"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.direct.Close)
	if _, err := schema.MigrateUp(t.Context(), r.direct, false); err != nil {
		t.Fatal(err)
	}
	// What was acknowledged must outlive an immediate shutdown. Not by ALTER SYSTEM: the server's command line wins.
	r.exec("ALTER DATABASE iotcloud SET synchronous_commit = on")
	r.direct.Reset()
	if r.count("SELECT count(*)::int FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'on'") != 1 {
		t.Fatal("commits are not synchronous")
	}

	r.proxy = newProxy(t, server.Address())
	if r.database, err = url.Parse(server.URL("iotcloud")); err != nil {
		t.Fatal(err)
	}
	r.database.Host = r.proxy.address()

	var written atomic.Int64
	ingest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if r.hang.Load() {
			<-request.Context().Done()
			return
		}
		fmt.Fprintf(w, `{"counters":{"messages_written":%d}}`, written.Add(1))
	}))
	t.Cleanup(ingest.Close)
	r.evaluate.Store(http.StatusOK)
	evaluator := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(r.evaluate.Load()))
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(evaluator.Close)
	r.services = []string{"INGEST_HEALTH_URL=" + ingest.URL, "EVALUATOR_HEALTH_URL=" + evaluator.URL}
	return r
}

// standby starts a hot standby of the server.
func (r *rig) standby() *pgserver.Server {
	r.t.Helper()
	standby, err := r.server.Standby(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := standby.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return standby
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.direct.Exec(r.t.Context(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) count(sql string, args ...any) int {
	r.t.Helper()
	n, err := r.tryCount(sql, args...)
	if err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (r *rig) tryCount(sql string, args ...any) (n int, err error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	err = r.direct.QueryRow(ctx, sql, args...).Scan(&n)
	return n, err
}

// counts reports whether the database answers, and with want.
func (r *rig) counts(want int, sql string, args ...any) bool {
	n, err := r.tryCount(sql, args...)
	return err == nil && n == want
}

// worker is one worker process.
type worker struct {
	t       *testing.T
	command *exec.Cmd
	log     *lockedBuffer
	exited  chan struct{}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start runs a worker; settings come last and win.
func (r *rig) start(settings ...string) *worker {
	r.t.Helper()
	log := &lockedBuffer{}
	w := r.run(exec.Command(binary, "run"), log, settings...)
	w.log = log
	// Before that it has no handler for a signal, and dies of one.
	r.eventually("the worker starts", func() bool { return strings.Contains(w.log.String(), "ops-worker starts") })
	return w
}

// run runs a worker that logs to output.
func (r *rig) run(command *exec.Cmd, output io.Writer, settings ...string) *worker {
	r.t.Helper()
	w := &worker{t: r.t, log: &lockedBuffer{}, exited: make(chan struct{}), command: command}
	w.command.Env = append([]string{
		"DATABASE_URL=" + r.database.String(), "STATE_DIR=" + r.t.TempDir(), "PG_POOL_MAX=4", "PG_POOL_MIN=0",
		"METRICS_COLLECTION_INTERVAL=" + interval.String(), "AGGREGATE_BUDGET=100%", "HEALTH_CHECK_INTERVAL=" + healthInterval.String(), "LEASE_TTL=" + leaseTTL.String(),
		"DB_CONNECT_TIMEOUT=1", "LOG_FORMAT=json", "GORACE=halt_on_error=1 atexit_sleep_ms=0",
	}, append(r.services, settings...)...)
	w.command.Stdout, w.command.Stderr = output, output
	// A test that is killed takes its workers with it.
	w.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.command.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.workers = append(r.workers, w)
	go func() {
		defer close(w.exited)
		_ = w.command.Wait() // the test looks at ProcessState
	}()
	r.t.Cleanup(func() {
		w.signal(syscall.SIGCONT)
		w.signal(syscall.SIGKILL)
		<-w.exited
		if text := w.log.String(); strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic") {
			r.t.Errorf("worker %d: %s", w.pid(), text)
		} else if r.t.Failed() {
			r.t.Logf("worker %d:\n%s", w.pid(), text)
		}
	})
	return w
}

func (w *worker) pid() int { return w.command.Process.Pid }

func (w *worker) signal(s syscall.Signal) {
	if err := w.command.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		w.t.Error(err)
	}
}

// end sends a signal and returns the exit status, -1 for a death by signal.
func (w *worker) end(s syscall.Signal) int {
	w.t.Helper()
	w.signal(s)
	select {
	case <-w.exited:
	case <-time.After(15 * time.Second):
		w.t.Fatalf("worker %d does not end", w.pid())
	}
	return w.command.ProcessState.ExitCode()
}

// leads reports whether this worker holds the lease, after the database.
func (r *rig) leads(w *worker) bool {
	return r.counts(1, "SELECT count(*) FROM ops_worker_lease WHERE holder LIKE '%/' || $1::text || '/%' AND expires_at > clock_timestamp()", strconv.Itoa(w.pid()))
}

// pair starts two workers and returns the one that collects first.
func (r *rig) pair(settings ...string) (leader, standby *worker) {
	r.t.Helper()
	a := r.start(settings...)
	r.eventually("the first worker leads", func() bool { return r.leads(a) })
	b := r.start(settings...)
	r.eventually("the second one stands by", func() bool { return strings.Contains(b.log.String(), "another replica collects") })
	r.settle()
	return a, b
}

// cycles is how many cycles are stored.
func (r *rig) cycles() int {
	n, err := r.tryCount("SELECT count(*) FROM system_metrics WHERE metric_name = 'healthy' AND service = 'ingest'")
	if err != nil {
		return -1
	}
	return n
}

// settle waits until cycles are stored as they come.
func (r *rig) settle() {
	r.t.Helper()
	before := r.cycles()
	r.eventually("cycles are stored", func() bool { return r.cycles() >= before+4 })
	r.eventually("the newest cycle is a new one", func() bool {
		return r.counts(1, `SELECT count(*) FROM ops_worker_lease WHERE clock_timestamp() - last_cycle_at < interval '1 second'`)
	})
}

func (r *rig) eventually(what string, condition func() bool) {
	r.t.Helper()
	r.within(time.Minute, what, condition)
}

func (r *rig) within(limit time.Duration, what string, condition func() bool) {
	r.t.Helper()
	r.withinSaying(limit, func() string { return what }, condition)
}

// withinSaying is within, but asks only in the end what is missing.
func (r *rig) withinSaying(limit time.Duration, what func() string, condition func() bool) {
	r.t.Helper()
	ticker := time.NewTicker(25 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(limit); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %s: %s", limit, what())
		}
	}
}

// halted keeps the server halted while during runs.
func (r *rig) halted(signal syscall.Signal, during func()) {
	r.t.Helper()
	if err := r.server.Halt(signal); err != nil {
		r.t.Fatal(err)
	}
	during()
	if err := r.server.Resume(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.direct.Reset()
}

// lasting keeps a fault up for d.
func (r *rig) lasting(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.t.Context().Done():
	}
}

// mark begins a measurement.
func (r *rig) mark() {
	r.t.Helper()
	if err := r.direct.QueryRow(r.t.Context(), "SELECT clock_timestamp()").Scan(&r.began); err != nil {
		r.t.Fatal(err)
	}
}

// measured is a line for docs/reliability.md.
type measured struct {
	Fault    string `json:"fault"`
	GapMS    int64  `json:"gap_ms"`
	Promised int64  `json:"promised_ms"`
}

// holds checks every promise after a fault: no point twice, none out of order,
// no gap longer than promised since mark, and the worker's own tables right.
func (r *rig) holds(fault string, promised time.Duration) {
	r.t.Helper()
	r.settle()
	if n := r.count("SELECT count(*) - count(DISTINCT (time, metric_name, service, tags)) FROM system_metrics"); n != 0 {
		r.t.Errorf("%s: %d points stand twice", fault, n)
	}
	// A cycle is whole: where both services answered, each has as many samples of
	// them as every other, but for what a minute has; and none of the running totals
	// where a term has begun and the stored ones could not be read yet.
	all := "service IN ('ingest', 'evaluator') AND service || ' ' || metric_name <> ALL ('{" + strings.Join(contracttest.NotInEveryCycle(), ",") + "}')"
	if n := r.count(`SELECT count(*) FROM (SELECT count(*) AS n FROM system_metrics WHERE ` + all + ` AND time IN
		(SELECT time FROM system_metrics WHERE metric_name = 'healthy' AND service IN ('ingest', 'evaluator') AND value = 1 GROUP BY time HAVING count(*) = 2)
		AND time IN (SELECT time FROM system_metrics WHERE metric_name IN ('messages_written', 'rules_evaluated'))
		GROUP BY time HAVING count(*) <> (SELECT max(n) FROM (
			SELECT count(*) AS n FROM system_metrics WHERE ` + all + ` GROUP BY time) whole)) x`); n != 0 {
		r.t.Errorf("%s: %d cycles are not whole", fault, n)
	}
	gap := time.Duration(r.count(`SELECT coalesce(max(extract(epoch FROM gap) * 1e6), 0)::bigint FROM (
		SELECT time - lag(time) OVER (ORDER BY time) AS gap, time FROM system_metrics WHERE metric_name = 'healthy' AND service = 'ingest'
			AND time < now() + interval '30 minutes') g -- what a clock far ahead has stamped is no gap
		WHERE time > $1`, r.began)) * time.Microsecond
	line, err := json.Marshal(measured{fault, gap.Milliseconds(), promised.Milliseconds()})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("MEASURED %s", line)
	if gap > promised {
		r.t.Errorf("%s: a gap of %s, promised %s", fault, gap, promised)
	}
	r.within(righting, "service_health is right", func() bool {
		return r.counts(3, `SELECT count(*) FROM service_health WHERE status = 'healthy' AND checked_at > clock_timestamp() - interval '11 seconds'`)
	})
	for _, w := range r.workers {
		select {
		case <-w.exited:
			continue
		default:
		}
		if descriptors, kilobytes := w.weight(); descriptors > maxDescriptors || kilobytes > maxKilobytes() {
			r.t.Errorf("%s: worker %d holds %d descriptors and %d kB", fault, w.pid(), descriptors, kilobytes)
		}
	}
	r.within(righting, "no alert is left open", func() bool {
		return r.counts(0, "SELECT count(*) FROM fleet_alert WHERE status <> 'CLOSED'")
	})
}

// weight is what a worker holds of the machine.
func (w *worker) weight() (descriptors, kilobytes int) {
	w.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.pid()))
	if err != nil {
		w.t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid()))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return len(entries), kilobytes
}

// hanging is a service that answers when released is closed.
func (r *rig) hanging(released <-chan struct{}) string {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		select {
		case <-released:
		case <-request.Context().Done():
		}
	}))
	r.t.Cleanup(server.Close)
	return server.URL
}

// written are the tables that the worker writes to.
var written = []string{"ops_worker_lease", "system_metrics", "service_health"}

// refuseWrites lets the database refuse every write of the worker with a code.
func (r *rig) refuseWrites(code string) {
	r.t.Helper()
	r.exec(fmt.Sprintf(`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'refused by a test' USING ERRCODE = '%s'; END $$`, code))
	for _, table := range written {
		r.exec("CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON " + table + " FOR EACH ROW EXECUTE FUNCTION refuse()")
	}
}

// acceptWrites ends refuseWrites.
func (r *rig) acceptWrites() {
	r.t.Helper()
	for _, table := range written {
		r.exec("DROP TRIGGER refuse ON " + table)
	}
}

// slowTable lets every sample take its time to be inserted; 0 is none.
func (r *rig) slowTable(each time.Duration) {
	r.t.Helper()
	r.exec("DROP TRIGGER IF EXISTS slow ON system_metrics")
	if each > 0 {
		r.exec(fmt.Sprintf(`CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN PERFORM pg_sleep(%f); RETURN NEW; END $$`, each.Seconds()))
		r.exec("CREATE TRIGGER slow BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION slow()")
	}
}

// shimClock puts a clock that can be set in the place of the server's own.
func (r *rig) shimClock() {
	r.t.Helper()
	r.exec("CREATE SCHEMA shim; CREATE TABLE shim.ahead (seconds float8); INSERT INTO shim.ahead VALUES (0)")
	// Or pg_catalog's would come before public's.
	r.exec("ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO server_clock")
	r.exec(`CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
		'SELECT pg_catalog.server_clock() + make_interval(secs => seconds) FROM shim.ahead'`)
	r.direct.Reset()
}

// setClock sets the shim's clock ahead of the server's own.
func (r *rig) setClock(ahead time.Duration) {
	r.t.Helper()
	r.exec("UPDATE shim.ahead SET seconds = $1", ahead.Seconds())
}

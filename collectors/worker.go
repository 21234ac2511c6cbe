package collectors

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
)

// The names of the loops, in logs and in the heartbeat.
const (
	healthLoop    = "health"
	metricsLoop   = "metrics"
	retentionLoop = "retention"
	leaseLoop     = "lease"
	startLoop     = "start"
)

// Heart is told of every turn of the loops.
type Heart interface {
	Beat(loop string, interval time.Duration) error
	Forget(loops ...string) error
}

// Worker is the whole of it: the two jobs, the lease and the start.
type Worker struct {
	cfg    config.Config
	pool   *pgxpool.Pool
	log    zerolog.Logger
	heart  Heart
	client *HTTPClient

	heartFailed sync.Once

	Store    *Postgres
	Lease    *Lease
	Services []Service
	Health   *HealthMonitor
	Metrics  *MetricsCollector
}

// NewWorker wires the parts; nothing runs yet, and the database is not asked.
func NewWorker(cfg config.Config, pool *pgxpool.Pool, buffer Buffer, heart Heart, log zerolog.Logger) *Worker {
	w := &Worker{cfg: cfg, pool: pool, log: log, heart: heart, client: NewHTTPClient()}
	w.Store = NewPostgres(pool, min(probeTimeout, max(cfg.MetricsInterval, time.Second)), cfg.LeaseTTL)
	w.Lease = NewLease(w.Store, holderName(), cfg.LeaseTTL, log, func(next time.Duration) { w.beat(leaseLoop, next) })
	w.Services = Services(cfg.Services, w.client, Query(w.Store.Ping))
	w.Health = NewHealthMonitor(w.Services, w.Store, w.Lease, cfg.HealthInterval, cfg.SystemAlerts)
	w.Metrics = NewMetricsCollector(w.Services, w.Store, w.Lease, buffer, cfg.MetricsInterval)
	return w
}

// Close frees what NewWorker made.
func (w *Worker) Close() { w.client.Close() }

// holderName is a name for the lease that no other process has, and that says
// to an operator where to look.
func holderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), uuid.NewString()[:8])
}

func (w *Worker) beat(loop string, interval time.Duration) {
	w.noteBeat(w.heart.Beat(loop, interval))
}

// noteBeat logs the first failure: a health check that then fails should not be
// a riddle.
func (w *Worker) noteBeat(err error) {
	if err != nil {
		w.heartFailed.Do(func() { w.log.Warn().Err(err).Msg("heartbeat not written, healthcheck will fail") })
	}
}

// Run prepares the database, waiting for it as long as it takes, and then
// collects whenever this replica has the lease, until ctx is done.
func (w *Worker) Run(ctx context.Context) {
	if !w.awaitDatabase(ctx) {
		return
	}
	w.noteBeat(w.heart.Forget(startLoop))
	w.Lease.Run(ctx, w.collect)
}

const (
	startBackOff = 10 * time.Second
	// startDeadline bounds one attempt. Migrations of a large table take their
	// time, and another replica's may have to be waited for.
	startDeadline = 5 * time.Minute
)

// awaitDatabase prepares the database, with back-off. It is false when ctx
// ended first.
func (w *Worker) awaitDatabase(ctx context.Context) bool {
	retry := newBackOff(startBackOff)
	var logged time.Time
	for {
		w.beat(startLoop, startDeadline)
		err := w.attemptStart(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		delay := retry.NextBackOff()
		if now := time.Now(); now.Sub(logged) >= 30*time.Second {
			logged = now
			w.log.Error().Err(err).Dur("retry_in_ms", delay).Msg("database is not ready, waiting for it")
		}
		if wait(ctx, delay); ctx.Err() != nil {
			return false
		}
	}
}

func (w *Worker) attemptStart(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	defer recovered(w.log.WithContext(ctx), func(panicked error) { err = panicked })
	return w.Prepare(ctx)
}

// Prepare brings the schema up to date and logs what the worker found.
func (w *Worker) Prepare(ctx context.Context) error {
	changes, err := db.MigrateUp(ctx, w.pool)
	for _, c := range changes {
		event := w.log.Info()
		if c.Failed() {
			event = w.log.Warn()
		}
		event.Str("object", c.Object).Str("action", c.Action).Str("detail", c.Detail).Msg("schema")
	}
	if err != nil {
		return err
	}
	s, err := db.New(w.pool).DescribeSession(ctx)
	if err != nil {
		return fmt.Errorf("describe session: %w", err)
	}
	w.log.Info().
		Str("server_version", s.ServerVersion).
		Str("login_role", s.LoginRole).
		Bool("superuser", s.Superuser).
		Bool("bypass_rls", s.BypassRls).
		Str("platform_role", s.ScopeRole).
		Bool("timescaledb", s.Timescaledb).
		Msg("database is ready")
	return nil
}

// collect runs the loops until ctx is done.
func (w *Worker) collect(ctx context.Context) {
	loops := []*Loop{
		{Name: healthLoop, Interval: w.cfg.HealthInterval, Deadline: w.cfg.HealthInterval * 9 / 10, Cycle: w.Health.Cycle},
		{Name: metricsLoop, Interval: w.cfg.MetricsInterval, Deadline: w.cfg.MetricsInterval * 9 / 10, Cycle: w.Metrics.Cycle},
	}
	if w.cfg.MetricsRetention > 0 {
		retention := NewRetention(w.Store, w.Lease, w.cfg.MetricsRetention)
		loops = append(loops, &Loop{Name: retentionLoop, Interval: retentionInterval, Deadline: retentionDeadline,
			FirstAfter: retentionDelay, Cycle: retention.Cycle})
	}
	for _, loop := range loops {
		loop.Log = w.log
		if loop.Name != retentionLoop {
			loop.Turned = func() { w.beat(loop.Name, loop.Interval) }
		}
	}
	runLoops(ctx, loops)
	w.noteBeat(w.heart.Forget(healthLoop, metricsLoop))
}

// runLoops runs loops side by side until ctx is done. A loop survives whatever
// happens in its cycles, so none can end another.
func runLoops(ctx context.Context, loops []*Loop) {
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() { loop.Run(ctx) })
	}
	running.Wait()
}

// NoHeart is for a worker that runs no loops.
var NoHeart Heart = noHeart{}

type noHeart struct{}

func (noHeart) Beat(string, time.Duration) error { return nil }
func (noHeart) Forget(...string) error           { return nil }

// Once runs cycle under the lease. With dryRun, or while another replica holds
// the lease, whom it then names, the cycle stores nothing.
func (w *Worker) Once(ctx context.Context, dryRun bool, cycle func(context.Context) error) (leader string, err error) {
	ctx, _ = withTrace(ctx, w.log)
	if !dryRun {
		holder, err := w.Lease.tryAcquire(ctx, nil)
		if err != nil {
			return "", err
		}
		if holder == w.Lease.holder {
			defer w.Lease.release()
			return "", cycle(ctx)
		}
		leader = holder
	}
	dry := dryStore{w.Store}
	w.Health.store, w.Metrics.store = dry, dry
	return leader, cycle(ctx)
}

// dryStore reads and writes nothing.
type dryStore struct{ Store }

func (dryStore) AppendCycles(context.Context, Token, []Cycle) (int, time.Time, error) {
	return 0, time.Now(), nil
}

func (dryStore) SaveHealth(context.Context, Token, time.Time, []Observation) error { return nil }

func (dryStore) SyncAlerts(context.Context, Token, []Observation, bool) (opened, closed []string, err error) {
	return nil, nil, nil
}

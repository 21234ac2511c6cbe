package collectors

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/schema"
	"ops_worker/internal/spool"
)

// The names of the loops, in logs and in the heartbeat.
const (
	HealthLoop    = "health"
	MetricsLoop   = "metrics"
	retentionLoop = "retention"
	leaseLoop     = "lease"
	schemaLoop    = "schema"
	StoreLoop     = "store"
	aggregateLoop = "aggregates"
	startLoop     = "start"
)

// Worker is the whole of it: the two jobs, the lease and the start.
type Worker struct {
	cfg    config.Config
	pool   *pgxpool.Pool
	log    zerolog.Logger
	heart  Heart
	http   *probe.Client
	client *db.Client
	schema *schemaKeeper

	// Observer is told of what the worker does.
	Observer Observer
	// AnyDatabase accepts a database that is not the platform's.
	AnyDatabase bool

	Store   *Postgres
	Lease   *lease.Lease
	Targets []probe.Target
	Health  *HealthMonitor
	Metrics *MetricsCollector
}

// NewWorker wires the parts; nothing runs yet, and the database is not asked.
func NewWorker(cfg config.Config, pool *pgxpool.Pool, buffer spool.Buffer, heart Heart, log zerolog.Logger) *Worker {
	w := &Worker{cfg: cfg, pool: pool, log: log, heart: heart, http: probe.ClientOf(cfg), Observer: NoObserver}
	w.client = db.NewClient(pool, min(probe.Timeout, max(cfg.MetricsInterval, time.Second)))
	w.schema = newSchemaKeeper(w.client, func(ctx context.Context) ([]schema.Change, error) {
		return schema.Ensure(ctx, pool, w.migratorOptions()...)
	})
	w.Store = NewPostgres(w.client, cfg.LeaseTTL)
	leases := lease.NewPostgres(w.client)
	leases.CycleInterval = cfg.MetricsInterval
	w.Lease = lease.New(leases, holderName(), cfg.LeaseTTL, log, lease.Hooks{
		Turned:     func(next time.Duration) { w.heart.Beat(leaseLoop, next) },
		Superseded: func(lastCycleAt time.Time) { w.Metrics.DropSuperseded(log, lastCycleAt) },
	})
	w.Targets = probe.Targets(cfg.Services, w.http, w.Store.Ping)
	w.Health = NewHealthMonitor(w.Targets, w.Store, w.Lease, cfg.HealthInterval,
		Alerts{cfg.SystemAlerts, cfg.AlertAfterFailures, cfg.AlertAfterSuccesses})
	w.Metrics = NewMetricsCollector(w.Targets, w.Store, w.Lease, buffer, cfg.MetricsInterval)
	w.Health.latencies = w.Metrics.latencies
	w.Metrics.pacer = newPacer(db.Aggregates, cfg.MetricsInterval, cfg.AggregateBudget.Share())
	w.CountOn(pool)
	return w
}

// CountOn says where the aggregates that take long are read, so that they take no
// connection from the loops.
func (w *Worker) CountOn(beside *pgxpool.Pool) {
	w.Store.beside = db.NewClient(beside, w.cfg.AggregateTimeout)
}

func (w *Worker) migratorOptions() []schema.MigratorOption {
	if w.AnyDatabase {
		return []schema.MigratorOption{schema.AnyDatabase}
	}
	return nil
}

// holderName is a name for the lease that no other process has, and that says
// to an operator where to look.
func holderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), uuid.NewString()[:8])
}

// Run prepares the database, waiting for it as long as it takes, and then
// collects whenever this replica has the lease, until ctx is done. It fails where
// the database is not one for the worker.
func (w *Worker) Run(ctx context.Context) error {
	w.Health.observer, w.Metrics.observer = w.Observer, w.Observer
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	// Before there is a database, so that the first cycle finds the instances.
	running.Go(func() { w.http.KeepInstances(ctx, w.log) })
	if err := w.awaitDatabase(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	w.heart.Forget(startLoop)
	running.Go(func() {
		// Beside the lease: without its table nobody leads.
		(&Loop{Name: schemaLoop, Interval: schemaInterval, Deadline: startDeadline, FirstAfter: schemaInterval, Cycle: w.schema.cycle, Log: w.log}).Run(ctx)
	})
	w.Lease.Run(ctx, w.collect)
	return nil
}

const (
	startBackOff = 10 * time.Second
	// startDeadline bounds one attempt. Migrations of a large table take their
	// time, and another replica's may have to be waited for.
	startDeadline = 5 * time.Minute
)

// awaitDatabase prepares the database, with back-off, until ctx ends or the
// database turns out to be one that is refused.
func (w *Worker) awaitDatabase(ctx context.Context) error {
	retry := backoff.New(startBackOff)
	var logged time.Time
	for {
		w.heart.Beat(startLoop, startDeadline)
		err := w.attemptStart(ctx)
		if err == nil || schema.IsRefused(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		delay := retry.NextBackOff()
		var early *schema.NoTimescaleError
		if now := time.Now(); errors.As(err, &early) {
			if now.Sub(logged) >= time.Minute {
				logged = now
				w.log.Warn().Err(err).Msg("waiting for the platform's migrator")
			}
		} else if now.Sub(logged) >= 30*time.Second {
			logged = now
			w.log.Error().Err(err).Dur("retry_in_ms", delay).Msg("database is not ready, waiting for it")
		}
		if backoff.Wait(ctx, delay); ctx.Err() != nil {
			return nil
		}
	}
}

func (w *Worker) attemptStart(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	defer faultlog.Recovered(w.log.WithContext(ctx), func(panicked error) { err = panicked })
	return w.Prepare(ctx)
}

// Prepare brings the schema up to date and logs what the worker found.
func (w *Worker) Prepare(ctx context.Context) error {
	changes, err := schema.MigrateUp(ctx, w.pool, w.migratorOptions()...)
	w.schema.log(w.log, changes)
	if err != nil {
		// A replica of an older version may collect right now with the tables that
		// stand; this one can as well.
		if !db.IsForbidden(err) || !w.canCollect(ctx) {
			return db.Unreachable(w.pool, err)
		}
		w.log.Warn().Err(err).Msg("the schema is not brought up to date, the tables that stand are used")
	}
	var session db.DescribeSessionRow
	var role string
	var timescale *schema.Timescale
	describeErr := w.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		if err := schema.CheckRowSecurity(ctx, q); err != nil {
			return err
		}
		if session, err = q.DescribeSession(ctx); err != nil {
			return err
		}
		if timescale, err = schema.FindTimescale(ctx, q); err != nil {
			return err
		}
		role, err = q.EnterPlatformScope(ctx)
		return err
	})
	if describeErr != nil {
		return fmt.Errorf("describe session: %w", describeErr)
	}
	target := w.pool.Config().ConnConfig
	w.log.Info().
		Str("database", target.Database).
		Str("host", target.Host).
		Uint16("port", target.Port).
		Str("server_version", session.ServerVersion).
		Str("login_role", session.LoginRole).
		Bool("superuser", session.Superuser).
		Bool("bypass_rls", session.BypassRls).
		Str("platform_role", role).
		Bool("timescaledb", timescale != nil).
		Msg("database is ready")
	return nil
}

// canCollect reports whether the tables stand without which nothing is collected.
func (w *Worker) canCollect(ctx context.Context) bool {
	var stands map[string]schema.Relation
	err := w.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		stands, err = schema.StandingRelations(ctx, q)
		return err
	})
	for _, name := range []string{schema.LeaseTable, "system_metrics", "service_health"} {
		if _, exists := stands[name]; !exists {
			return false
		}
	}
	return err == nil
}

// collect runs the loops until ctx is done.
func (w *Worker) collect(ctx context.Context) {
	loops := append(w.Metrics.loops(w.cfg.MetricsInterval),
		&Loop{Name: HealthLoop, Interval: w.cfg.HealthInterval, Deadline: w.cfg.HealthInterval * 9 / 10,
			Cycle: w.Health.Cycle})
	if w.cfg.MetricsRetention > 0 {
		retention := NewRetention(w.Store, w.Lease, w.cfg.MetricsRetention)
		loops = append(loops, &Loop{Name: retentionLoop, Interval: retentionInterval, Deadline: retentionDeadline,
			FirstAfter: retentionDelay, Cycle: retention.Cycle})
	}
	for _, loop := range loops {
		loop.Log = w.log
		loop.Ended = func(took time.Duration, err error, skipped int) {
			w.Observer.CycleEnded(loop.Name, took, err, skipped)
		}
		if loop.Name == HealthLoop || loop.Name == MetricsLoop {
			loop.Turned = func() { w.heart.Beat(loop.Name, loop.Interval) }
			loop.StandsStill = w.Lease.StandDown
		}
	}
	stopped := make(chan time.Time, 1)
	context.AfterFunc(ctx, func() { stopped <- time.Now() })
	runLoops(ctx, loops)
	w.storeLast(ctx, <-stopped)
	w.heart.Forget(HealthLoop, MetricsLoop)
}

// readyIntervals is how many intervals a leader may be without a store that
// succeeds, and is still ready.
const readyIntervals = 3

// Ready fails unless this process leads and has stored within three intervals, or
// stands by and has read the lease within its ttl.
func (w *Worker) Ready() error {
	status := w.Lease.Status()
	stored := w.Metrics.StoredAt()
	switch {
	case status.Leading && stored.IsZero():
		return errors.New("nothing is stored yet")
	case status.Leading && time.Since(stored) > readyIntervals*w.cfg.MetricsInterval:
		return fmt.Errorf("the newest store that succeeded is %s old", time.Since(stored).Round(time.Second))
	case !status.Leading && status.SeenAt.IsZero():
		return errors.New("the lease has not been read yet")
	case !status.Leading && time.Since(status.SeenAt) > w.cfg.LeaseTTL:
		return fmt.Errorf("the lease was last read %s ago", time.Since(status.SeenAt).Round(time.Second))
	}
	return nil
}

// storeLast stores the cycle that was gathered while the loops stopped, in what
// is left of stopGrace.
func (w *Worker) storeLast(ctx context.Context, stopped time.Time) {
	if w.Metrics.waiting() == 0 {
		return
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), stopped.Add(stopGrace))
	defer cancel()
	ctx, log := withTrace(ctx, w.log.With().Str("loop", StoreLoop).Logger())
	defer faultlog.Recovered(ctx, func(error) {})
	if err := w.Metrics.Store(ctx); err != nil {
		log.Debug().Err(err).Msg("the last cycles are not stored")
	}
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

// Once runs cycle under the lease. With dryRun the cycle stores nothing; nor
// does it while another replica, which is then returned, holds the lease.
func (w *Worker) Once(ctx context.Context, dryRun bool, cycle func(context.Context) error) (leader string, err error) {
	ctx, log := withTrace(ctx, w.log)
	w.http.FindInstances(ctx, log)
	if !dryRun {
		holder, err := w.Lease.TryAcquire(ctx)
		if err != nil {
			return "", err
		}
		if holder == w.Lease.Holder() {
			defer w.Lease.Release()
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

func (dryStore) AppendCycles(context.Context, lease.Token, []spool.Cycle, bool) (int, time.Time, error) {
	return 0, time.Now(), nil
}

func (dryStore) SaveHealth(context.Context, lease.Token, time.Time, []probe.Observation) (map[string]int, error) {
	return nil, nil
}

func (dryStore) SyncAlerts(context.Context, lease.Token, []probe.Observation, bool) (opened, closed []string, err error) {
	return nil, nil, nil
}

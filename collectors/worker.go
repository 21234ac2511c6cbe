package collectors

import (
	"cmp"
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
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/pace"
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
	cfg         config.Config
	anyDatabase bool
	pool        *pgxpool.Pool
	client      *db.Client
	schema      *schemaKeeper
	http        *probe.Client
	heart       Heart
	log         zerolog.Logger
	*jobs

	Store *Postgres
}

// jobs are the lease and what is done under it.
type jobs struct {
	Lease     *lease.Lease
	metrics   *metricsCollector
	health    *healthMonitor
	retention *retention // nil where samples are kept for ever
	observer  Observer
}

// Options are what a Worker is made of. Config, Pool, Buffer and Log are needed.
type Options struct {
	Config config.Config
	Pool   *pgxpool.Pool
	// Beside is where the aggregates that take long are read, so that they take no
	// connection from the loops; nil is Pool.
	Beside *pgxpool.Pool
	// Buffer keeps the cycles that cannot be stored yet.
	Buffer spool.Buffer
	// Heart is told of every turn of the loops, and Observer of what they do.
	Heart    Heart
	Observer Observer
	// AnyDatabase accepts a database that is not the platform's.
	AnyDatabase bool
	Log         zerolog.Logger
}

// NewWorker makes a whole worker; nothing runs yet, and the database is not asked.
func NewWorker(o Options) *Worker {
	cfg := o.Config
	client := db.NewClient(o.Pool, min(probe.Timeout, max(cfg.MetricsInterval, time.Second)))
	w := &Worker{
		cfg: cfg, anyDatabase: o.AnyDatabase, pool: o.Pool, client: client, log: o.Log,
		heart: cmp.Or(o.Heart, NoHeart),
		http:  probe.NewClient(cfg),
		Store: NewPostgres(client, db.NewClient(cmp.Or(o.Beside, o.Pool), cfg.AggregateTimeout), cfg.LeaseTTL),
	}
	w.schema = newSchemaKeeper(client, func(ctx context.Context) ([]schema.Change, error) {
		return schema.Ensure(ctx, o.Pool, o.AnyDatabase)
	})
	w.jobs = newJobs(cfg, probe.Targets(cfg.Services, w.http, w.Store.Ping), w.Store, lease.NewPostgres(client, cfg.MetricsInterval), o.Buffer, w.heart, cmp.Or(o.Observer, NoObserver), o.Log)
	return w
}

// newJobs makes the jobs on a store and on the lease's.
func newJobs(cfg config.Config, targets []probe.Target, store Store, leases lease.Store, buffer spool.Buffer, heart Heart, observer Observer, log zerolog.Logger) *jobs {
	j := &jobs{observer: observer}
	j.Lease = lease.New(leases, holderName(), cfg.LeaseTTL, log, lease.Hooks{
		Turned:     func(next time.Duration) { heart.Beat(leaseLoop, next) },
		Superseded: func(lastCycleAt time.Time) { j.metrics.supersede(log, lastCycleAt) },
	})
	latencies := &latencies{}
	j.health = &healthMonitor{targets: targets, store: store, lease: j.Lease, latencies: latencies, observer: observer,
		alerts: alerts{cfg.SystemAlerts, cfg.AlertAfterFailures, cfg.AlertAfterSuccesses}, timeout: min(probe.Timeout, cfg.HealthInterval*6/10)}
	schedule := newSchedule(Aggregates, cfg.MetricsInterval, cfg.AggregateBudget.Share())
	j.metrics = newMetricsCollector(targets, store, j.Lease, buffer, cfg.MetricsInterval, schedule, latencies, observer)
	if cfg.MetricsRetention > 0 {
		j.retention = newRetention(store, j.Lease, cfg.MetricsRetention)
	}
	return j
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

// collect runs the loops until ctx is done.
func (w *Worker) collect(ctx context.Context) {
	loops := append(w.metrics.loops(w.cfg.MetricsInterval),
		&Loop{Name: HealthLoop, Interval: w.cfg.HealthInterval, Deadline: w.cfg.HealthInterval * 9 / 10, Cycle: w.health.cycle})
	if w.retention != nil {
		loops = append(loops, &Loop{Name: retentionLoop, Interval: retentionInterval, Deadline: retentionDeadline,
			FirstAfter: retentionDelay, Cycle: w.retention.cycle})
	}
	for _, loop := range loops {
		loop.Log = w.log
		loop.Ended = func(took time.Duration, err error, skipped int) {
			w.observer.CycleEnded(loop.Name, took, err, skipped)
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

// runLoops runs loops side by side until ctx is done. A loop survives whatever
// happens in its cycles, so none can end another.
func runLoops(ctx context.Context, loops []*Loop) {
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() { loop.Run(ctx) })
	}
	running.Wait()
}

// storeLast stores the cycle that was gathered while the loops stopped, in what
// is left of stopGrace.
func (w *Worker) storeLast(ctx context.Context, stopped time.Time) {
	if waiting, _ := w.Waiting(); waiting == 0 {
		return
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), stopped.Add(stopGrace))
	defer cancel()
	ctx, log := withTrace(ctx, w.log.With().Str("loop", StoreLoop).Logger())
	defer faultlog.Recovered(ctx, func(error) {})
	if err := w.metrics.storer.cycle(ctx); err != nil {
		log.Debug().Err(err).Msg("the last cycles are not stored")
	}
}

// Waiting is how many cycles wait to be stored, and the time of the oldest.
func (w *Worker) Waiting() (cycles int, oldest time.Time) { return w.metrics.queue.waiting() }

// Ready fails unless this process leads and has stored within three intervals, or
// stands by and has read the lease within its ttl.
func (w *Worker) Ready() error {
	status := w.Lease.Status()
	stored := w.metrics.storer.newestStore()
	switch {
	case status.Leading && stored.IsZero():
		return errors.New("nothing is stored yet")
	case status.Leading && time.Since(stored) > pace.Overdue(w.cfg.MetricsInterval):
		return fmt.Errorf("the newest store that succeeded is %s old", time.Since(stored).Round(time.Second))
	case !status.Leading && status.SeenAt.IsZero():
		return errors.New("the lease has not been read yet")
	case !status.Leading && time.Since(status.SeenAt) > w.cfg.LeaseTTL:
		return fmt.Errorf("the lease was last read %s ago", time.Since(status.SeenAt).Round(time.Second))
	}
	return nil
}

// OnceHealth checks every service once, and saves that under the lease: not with
// dryRun, nor while another replica, which is then returned, holds it.
func (w *Worker) OnceHealth(ctx context.Context, dryRun bool) (found []probe.Observation, leader string, err error) {
	leader, err = w.once(ctx, dryRun, w.health.check, w.health.save)
	return w.health.last, leader, err
}

// OnceMetrics is OnceHealth for a cycle of metrics, with the aggregates that failed.
func (w *Worker) OnceMetrics(ctx context.Context, dryRun bool) (cycle spool.Cycle, failed []string, leader string, err error) {
	leader, err = w.once(ctx, dryRun, w.metrics.gatherer.once, w.metrics.storer.cycle)
	return w.metrics.gatherer.last, w.metrics.counting.failed, leader, err
}

func (w *Worker) once(ctx context.Context, dryRun bool, collect func(context.Context), save func(context.Context) error) (leader string, err error) {
	ctx, log := withTrace(ctx, w.log)
	w.http.FindInstances(ctx, log)
	if !dryRun {
		holder, err := w.Lease.TryAcquire(ctx)
		if err != nil {
			return "", err
		}
		if holder == w.Lease.Holder() {
			defer w.Lease.Release()
			collect(ctx)
			return "", save(ctx)
		}
		leader = holder
	}
	collect(ctx)
	return leader, nil
}

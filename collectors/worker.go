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
	"ops_worker/internal/notify"
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

// Worker prepares the database, and runs the two jobs while it holds the lease.
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

// jobs are the lease and what a leader does.
type jobs struct {
	Lease     *lease.Lease
	metrics   *metricsCollector
	health    *healthMonitor
	retention *retention        // nil if samples are kept for ever
	webhook   *notify.Webhook   // nil where nobody is told
	heartbeat *notify.Heartbeat // nil likewise
	observer  Observer
}

// Options are what a Worker is made of. Config, Pool, Buffer and Log are required.
type Options struct {
	Config      config.Config
	Pool        *pgxpool.Pool
	Beside      *pgxpool.Pool // for slow aggregates; nil is Pool
	Buffer      spool.Buffer  // of the cycles that are not stored yet
	Heart       Heart
	Observer    Observer
	AnyDatabase bool // accept a database that is not the platform's
	Log         zerolog.Logger
}

// NewWorker makes a worker, without asking the database.
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
	targets := probe.Targets(cfg.Services, w.http, w.Store.Ping)
	leases := lease.NewPostgres(client, cfg.MetricsInterval)
	w.jobs = newJobs(cfg, targets, w.Store, leases, o.Buffer, w.heart, cmp.Or(o.Observer, NoObserver), o.Log)
	return w
}

// newJobs makes the jobs.
func newJobs(cfg config.Config, targets []probe.Target, store Store, leases lease.Store, buffer spool.Buffer, heart Heart, observer Observer, log zerolog.Logger) *jobs {
	j := &jobs{observer: observer}
	var told teller // not a nil *notify.Webhook, which would be one
	if cfg.AlertWebhookURL != "" && cfg.SystemAlerts {
		j.webhook = notify.New(notify.Options{URL: cfg.AlertWebhookURL, Format: notify.Format(cfg.AlertWebhookFormat), Source: cfg.ServiceName, CheckInterval: cfg.HealthInterval, CAs: cfg.HealthCAs, Log: log})
		told = j.webhook
	}
	if cfg.HeartbeatURL != "" {
		j.heartbeat = notify.NewHeartbeat(cfg.HeartbeatURL, cfg.HealthCAs, log)
	}
	j.Lease = lease.New(leases, holderName(), cfg.LeaseTTL, log, lease.Hooks{
		Turned: func(next time.Duration) { heart.Beat(leaseLoop, next) },
		Superseded: func(lastCycleAt time.Time) {
			j.metrics.supersede(log, lastCycleAt)
			j.health.alerts.superseded(log)
		},
		Answered: func(away, back time.Time) { j.health.alerts.judge.noticeOutage(away, back) },
	})
	latencies := &latencies{}
	schedule := newSchedule(Aggregates, cfg.MetricsInterval, cfg.AggregateBudget.Share())
	j.metrics = newMetricsCollector(targets, store, j.Lease, buffer, cfg.MetricsInterval, schedule, latencies, storeObserver{observer, j.heartbeat})
	j.health = &healthMonitor{targets: targets, store: store, lease: j.Lease, latencies: latencies, observer: observer, warned: map[string]time.Time{},
		alerts: newAlertKeeper(cfg, store, j.Lease, told, j.metrics.queue, log), timeout: min(probe.Timeout, cfg.HealthInterval*6/10)}
	if cfg.MetricsRetention > 0 {
		j.retention = newRetention(store, j.Lease, cfg.MetricsRetention)
	}
	return j
}

// Run waits for the database and prepares it, then collects whenever this replica has
// the lease, until ctx is done. It fails if the database is not one for the worker.
func (w *Worker) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	// Before the database is ready, so that the first cycle finds the instances.
	running.Go(func() { w.http.KeepInstances(ctx, w.log) })
	running.Go(func() { w.webhook.Run(ctx) })
	running.Go(func() { w.heartbeat.Run(ctx) })
	if err := w.awaitDatabase(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	w.heart.Forget(startLoop)
	running.Go(func() {
		// Also without the lease: if its table is missing, nobody leads.
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
	w.finish(ctx, <-stopped)
	w.heart.Forget(HealthLoop, MetricsLoop)
}

// runLoops runs loops in parallel until ctx is done. A cycle that fails ends no loop.
func runLoops(ctx context.Context, loops []*Loop) {
	var running sync.WaitGroup
	for _, loop := range loops {
		running.Go(func() { loop.Run(ctx) })
	}
	running.Wait()
}

// finish stores the cycle that was gathered while the loops stopped, and what has been
// told since the last check, in what is left of stopGrace.
func (w *Worker) finish(ctx context.Context, stopped time.Time) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), stopped.Add(stopGrace))
	defer cancel()
	ctx, log := withTrace(ctx, w.log)
	defer faultlog.Recovered(ctx, func(error) {})
	var err error
	if waiting, _ := w.Waiting(); waiting > 0 {
		err = w.metrics.storer.cycle(ctx)
	}
	if err = errors.Join(err, w.health.alerts.finish(ctx)); err != nil {
		log.Debug().Err(err).Msg("the last cycles, or what was told, are not stored")
	}
}

// storeObserver tells a dead man's switch of each store.
type storeObserver struct {
	Observer
	heartbeat *notify.Heartbeat
}

// Stored is called after a store.
func (o storeObserver) Stored(samples int) {
	o.Observer.Stored(samples)
	o.heartbeat.Stored()
}

// Waiting is how many cycles wait to be stored, and the time of the oldest.
func (w *Worker) Waiting() (cycles int, oldest time.Time) { return w.metrics.queue.waiting() }

// Ready returns an error unless this process leads and has stored within three
// intervals, or is a standby and has read the lease within its ttl.
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

// OnceHealth checks every service once, and saves the results unless dryRun is set or
// another replica, which it returns as leader, holds the lease.
func (w *Worker) OnceHealth(ctx context.Context, dryRun bool) (found []probe.Observation, leader string, err error) {
	leader, err = w.once(ctx, dryRun, w.health.check, w.health.save)
	return w.health.last, leader, err
}

// OnceMetrics is OnceHealth for a cycle of metrics. It also returns the aggregates that
// failed.
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

// holderName is unique to this process, and tells an operator where it runs.
func holderName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), uuid.NewString()[:8])
}

package main

import (
	"context"
	"io"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"ops_worker/collectors"
	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
	"ops_worker/internal/heartbeat"
	"ops_worker/internal/humanize"
	"ops_worker/internal/listener"
	"ops_worker/internal/spool"
)

func newRunCommand(load loader) *cobra.Command {
	var anyDatabase bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run both loops until SIGTERM, SIGINT or SIGHUP",
		Long: "Brings the schema up to date, waiting for the database as long as it takes, and\n" +
			"runs the health monitor and the metrics collector until SIGTERM, SIGINT or SIGHUP.\n" +
			"Of several replicas one collects and the others stand by.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			return runWorker(cmd.Context(), cfg, anyDatabase, cmd.ErrOrStderr())
		},
	}
	anyDatabaseFlag(cmd.Flags(), &anyDatabase)
	return cmd
}

// hangLimit is how long a stop waits for what may hang: a disk, or whoever reads the log.
const hangLimit = time.Second

func runWorker(ctx context.Context, cfg config.Config, anyDatabase bool, stderr io.Writer) error {
	// The loops wait far more than they compute. One processor spares the wake-ups between
	// two, a fifth of all the CPU; and collecting garbage early, of which there is little,
	// keeps the heap near what is live, some 2 MB.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(40)
	if err := cfg.InPlatformWorkersPlace(); err != nil {
		return &exitError{exitUsage, err.Error() + ". " + config.PlatformWorkerAdvice}
	}
	signal.Ignore(syscall.SIGPIPE) // a log whose reader is gone ends no worker
	log, endLog := newQueuedLogger(cfg, stderr)
	defer backoff.AtMost(hangLimit, endLog)
	heart := new(heartbeat.Heart)
	beats, stopHeart := context.WithCancel(context.WithoutCancel(ctx)) // it beats until the worker has stopped
	var beating sync.WaitGroup
	beating.Go(func() { heart.Run(beats, cfg.StateDir, cfg.ServiceName, log) })
	defer backoff.AtMost(hangLimit, beating.Wait)
	defer stopHeart()
	return withPools(context.WithoutCancel(ctx), cfg, func(own, beside *pgxpool.Pool) error {
		buffer, closeBuffer := openBuffer(cfg, log)
		defer closeBuffer()
		return runOn(ctx, heart, collectors.Options{Config: cfg, Pool: own, Beside: beside, Buffer: buffer, Heart: heart, AnyDatabase: anyDatabase, Log: log})
	})
}

// runOn runs the worker that the options make, and serves HTTP beside it.
func runOn(ctx context.Context, heart *heartbeat.Heart, options collectors.Options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cfg, log := options.Config, options.Log
	names := cfg.Monitored()
	var worker *collectors.Worker
	var metrics *listener.Metrics
	if cfg.HTTPAddr != "" {
		metrics = newMetrics(cfg, func() *collectors.Worker { return worker }, options.Pool)
		options.Observer = metrics
	}
	worker = collectors.NewWorker(options)
	for _, warning := range cfg.Warnings {
		log.Warn().Msg(warning)
	}
	told := "nobody"
	if cfg.AlertWebhookURL != "" {
		told = cfg.AlertWebhookFormat
	}
	log.Info().Str("version", version).Str("commit", commit).Int("services", len(names)).Strs("monitored", humanize.Few(names, 50)).
		Stringer("health_interval", cfg.HealthInterval).Stringer("metrics_interval", cfg.MetricsInterval).
		Bool("system_alerts", cfg.SystemAlerts).Str("alerts_told_to", told).Msg("ops-worker starts")
	var serving sync.WaitGroup
	if metrics != nil {
		serving.Go(func() { listener.Serve(ctx, cfg.HTTPAddr, listener.Handler(metrics, heart.Check, worker.Ready), log) })
	}
	err := worker.Run(ctx)
	stop()
	serving.Wait()
	if err != nil {
		log.Error().Err(err).Msg("the database is refused")
		return &exitError{status: exitUsage}
	}
	if n := options.Buffer.Len(); n > 0 && cfg.SpoolDir == "" {
		log.Warn().Int("cycles", n).Msg("cycles that could not be stored are lost: there is no SPOOL_DIR")
	}
	log.Info().Msg("ops-worker stopped")
	return nil
}

// openBuffer opens the buffer on disk where SPOOL_DIR says so.
func openBuffer(cfg config.Config, log zerolog.Logger) (buffer spool.Buffer, closeIt func()) {
	if cfg.SpoolDir == "" {
		return spool.NewMemory(cfg.BufferCycles), func() {}
	}
	onDisk, left, err := spool.Open(cfg.SpoolDir, cfg.BufferCycles)
	if err != nil {
		log.Error().Err(err).Msg("the spool cannot be opened, cycles are kept in memory until it can")
	}
	if left.EarlierFile != "" {
		log.Warn().Str("file", left.EarlierFile).Msg("spool of an earlier version is left as it is, its cycles are not stored")
	}
	if left.TornBytes > 0 {
		log.Warn().Int64("bytes", left.TornBytes).Msg("spool had a torn tail, it is dropped")
	}
	if left.Dropped > 0 {
		log.Warn().Int("cycles", left.Dropped).Msg("spool held more than BUFFER_CYCLES, the oldest are dropped")
	}
	if left.Cycles > 0 {
		log.Info().Int("cycles", left.Cycles).Msg("spool holds cycles of an earlier process")
	}
	return onDisk, func() { onDisk.Close() }
}

// newMetrics makes what /metrics shows of a worker, which is there when it is asked.
func newMetrics(cfg config.Config, worker func() *collectors.Worker, pool *pgxpool.Pool) *listener.Metrics {
	return listener.NewMetrics(listener.Source{
		Version: version, Commit: commit, Services: cfg.Monitored(), Budget: cfg.AggregateBudget.Share(),
		Health: collectors.HealthLoop, Metrics: collectors.MetricsLoop, Store: collectors.StoreLoop,
		Lease: func() (bool, int64) {
			status := worker().Lease.Status()
			return status.Leading, status.Epoch
		},
		Buffer: func() (int, time.Duration) {
			cycles, oldest := worker().Waiting()
			if cycles == 0 {
				return 0, 0
			}
			return cycles, max(worker().Lease.Now().Sub(oldest), 0)
		},
		Pool: func() (int, int) {
			stat := pool.Stat()
			return int(stat.TotalConns()), int(stat.IdleConns())
		},
	})
}

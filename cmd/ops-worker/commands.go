package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ops_worker/collectors"
	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/heartbeat"
	"ops_worker/internal/humanize"
	"ops_worker/internal/listener"
	"ops_worker/internal/spool"
)

func newRootCommand(environ []string) *cobra.Command {
	load := func() (config.Config, error) { return config.FromEnvironment(environ) }
	run := newRunCommand(load)
	root := &cobra.Command{
		Use:   "ops-worker",
		Short: "The IoT platform's health monitor and metrics collector",
		Long: "ops-worker polls the platform's services, keeps service_health and the system\n" +
			"alerts up to date, and appends the platform's metrics to system_metrics.\n" +
			"Without a command it runs, as `ops-worker run` does. All settings come from the\n" +
			"environment; the README lists them.",
		Args:          knownCommand,
		RunE:          run.RunE,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(versionLine())
	root.Flags().AddFlagSet(run.Flags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &exitError{exitUsage, withNearFlag(cmd, err)} })
	root.AddCommand(run, newMigrateCommand(load), newOnceCommand(load), newHealthcheckCommand(environ), newDoctorCommand(load),
		newStatusCommand(load, environ), newGrantsCommand(load), newVersionCommand())
	return root
}

// knownCommand refuses the argument of a command that has others below it, and
// says which was meant.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	return didYouMean(fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), cmd.SuggestionsFor(args[0]))
}

// subcommandWanted is what a command does that has others below it and is nothing by
// itself.
func subcommandWanted(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return &exitError{exitUsage, fmt.Errorf("%s wants a command: %s", cmd.Name(), strings.Join(names, ", "))}
}

// withNearFlag adds which flag was meant.
func withNearFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	var meant []string
	for _, name := range humanize.Near(unknown.GetSpecifiedName(), names) {
		meant = append(meant, "--"+name)
	}
	return didYouMean(err, meant)
}

func didYouMean(err error, meant []string) error {
	if len(meant) == 0 {
		return err
	}
	return fmt.Errorf("%w: did you mean %s?", err, strings.Join(meant, " or "))
}

type loader func() (config.Config, error)

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

// The loops wait far more than they compute. One processor spares the wake-ups
// between two, a fifth of all the CPU; and collecting garbage early, of which
// there is little, keeps the heap near what is live, some 2 MB.
const (
	processors = 1
	gcPercent  = 40
)

func runWorker(ctx context.Context, cfg config.Config, anyDatabase bool, stderr io.Writer) error {
	runtime.GOMAXPROCS(processors)
	debug.SetGCPercent(gcPercent)
	if err := cfg.InPlatformWorkersPlace(); err != nil {
		return &exitError{exitUsage, fmt.Errorf("%w. %s", err, config.PlatformWorkerAdvice)}
	}
	signal.Ignore(syscall.SIGPIPE) // a log whose reader is gone ends no worker
	log, endLog := newQueuedLogger(cfg, stderr)
	defer endLog()
	// net/http logs there what a service sends unasked.
	stdlog.SetOutput(faultlog.NewWriter(log))
	stdlog.SetFlags(0)
	heart := heartbeat.New(cfg.StateDir, cfg.ServiceName)
	defer beside(func(ctx context.Context) { heart.Run(ctx, log) })()
	return withPools(context.WithoutCancel(ctx), cfg, func(p pools) error {
		return runOn(ctx, cfg, p, heart, anyDatabase, log)
	})
}

// besideGrace is how long a stop waits for what hangs on a disk.
const besideGrace = 500 * time.Millisecond

// beside runs something beside the worker, and returns what ends it.
func beside(run func(context.Context)) (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx)
	}()
	return func() {
		stop()
		select {
		case <-ended:
		case <-time.After(besideGrace):
		}
	}
}

// runOn is runWorker with what it needs.
func runOn(ctx context.Context, cfg config.Config, p pools, heart *heartbeat.Heart, anyDatabase bool, log zerolog.Logger) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	buffer, closeBuffer := openBuffer(cfg, log)
	defer closeBuffer()
	options := collectors.Options{Config: cfg, Pool: p.own, Beside: p.beside, Buffer: buffer, Heart: heart, AnyDatabase: anyDatabase, Log: log}
	names := make([]string, len(cfg.Services))
	for i, s := range cfg.Services {
		names[i] = s.Name
	}
	var worker *collectors.Worker
	var metrics *listener.Metrics
	if cfg.HTTPAddr != "" {
		metrics = newMetrics(names, func() *collectors.Worker { return worker }, p.own)
		options.Observer = metrics
	}
	worker = collectors.NewWorker(options)
	for _, warning := range cfg.Warnings {
		log.Warn().Msg(warning)
	}
	log.Info().Str("version", version).Str("commit", commit).Int("services", len(names)).Strs("monitored", humanize.Few(names, 50)).
		Stringer("health_interval", cfg.HealthInterval).Stringer("metrics_interval", cfg.MetricsInterval).
		Bool("system_alerts", cfg.SystemAlerts).Msg("ops-worker starts")
	var serving sync.WaitGroup
	if metrics != nil {
		serving.Go(func() { listener.Serve(ctx, cfg.HTTPAddr, listener.Handler(metrics, heart.Check, worker.Ready), log) })
	}
	err := worker.Run(ctx)
	if err != nil {
		stop()
	}
	serving.Wait()
	if err != nil {
		log.Error().Err(err).Msg("the database is refused")
		return &exitError{status: exitUsage}
	}
	if n := buffer.Len(); n > 0 && cfg.SpoolDir == "" {
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
func newMetrics(monitored []string, worker func() *collectors.Worker, pool *pgxpool.Pool) *listener.Metrics {
	return listener.NewMetrics(listener.Source{
		Version: version, Commit: commit, Services: monitored,
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

// withPool runs fn on a pool of its own, which connects when it is first used.
func withPool(ctx context.Context, options db.Options, fn func(*pgxpool.Pool) error) error {
	pool, err := db.Open(ctx, options)
	if err != nil {
		return err
	}
	defer db.Close(pool)
	return db.Unreachable(pool, fn(pool))
}

// pools are the worker's: its own, and that of aggregates that take long.
type pools struct{ own, beside *pgxpool.Pool }

// withPools is withPool for both of them. What takes long takes no connection from the
// loops.
func withPools(ctx context.Context, cfg config.Config, fn func(pools) error) error {
	options := db.OptionsFrom(cfg.Database, cfg.ServiceName)
	beside := options
	beside.MinConns, beside.MaxConns, beside.CancelOnServer = 0, 1, true
	return withPool(ctx, options, func(own *pgxpool.Pool) error {
		return withPool(ctx, beside, func(beside *pgxpool.Pool) error { return fn(pools{own, beside}) })
	})
}

// printTable prints n rows under a head, in columns.
func printTable(out io.Writer, head []string, n int, row func(int) []any) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells []any) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, cell)
		}
		fmt.Fprintln(w)
	}
	cells := make([]any, len(head))
	for i, h := range head {
		cells[i] = h
	}
	line(cells)
	for i := range n {
		line(row(i))
	}
	return w.Flush()
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func newHealthcheckCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit 0 while the loops of the worker on this machine turn, 1 when one stands still",
		Long: "Reads the heartbeat that `ops-worker run` leaves in STATE_DIR, so it needs neither\n" +
			"a port nor the database: a database that is away is not mended by a restart.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return healthcheck(environ) },
	}
}

func healthcheck(environ []string) error {
	worker, err := config.HeartbeatFrom(environ)
	if err != nil {
		return err
	}
	return heartbeat.Check(worker.StateDir, worker.ServiceName)
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
}

func versionLine() string {
	return fmt.Sprintf("ops-worker %s (commit %s, built %s)\n", version, commit, date)
}

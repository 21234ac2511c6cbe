package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"runtime"
	"runtime/debug"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ops_worker/collectors"
	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/heartbeat"
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
		Args:          cobra.NoArgs,
		RunE:          run.RunE,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(run, newMigrateCommand(load), newOnceCommand(load), newHealthcheckCommand(load), newDoctorCommand(load), newVersionCommand())
	return root
}

type loader func() (config.Config, error)

func newRunCommand(load loader) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run both loops until SIGTERM or SIGINT",
		Long: "Brings the schema up to date, waiting for the database as long as it takes, and\n" +
			"runs the health monitor and the metrics collector until SIGTERM or SIGINT.\n" +
			"Of several replicas one collects and the others stand by.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			return runWorker(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
}

// The loops wait far more than they compute. One processor spares the wake-ups
// between two, a fifth of all the CPU; and collecting garbage early, of which
// there is little, keeps the heap near what is live, some 2 MB.
const (
	processors = 1
	gcPercent  = 40
)

func runWorker(ctx context.Context, cfg config.Config, stderr io.Writer) error {
	runtime.GOMAXPROCS(processors)
	debug.SetGCPercent(gcPercent)
	log := newLogger(cfg, stderr)
	// net/http logs there what a service sends unasked.
	stdlog.SetOutput(faultlog.NewWriter(log))
	stdlog.SetFlags(0)
	heart, err := heartbeat.New(cfg.StateDir, cfg.ServiceName)
	if err != nil {
		return err
	}
	defer heart.Close()
	pool, err := db.Open(context.WithoutCancel(ctx), cfg.DatabaseOptions())
	if err != nil {
		return err
	}
	defer db.Close(pool)

	buffer := spool.NewMemory(cfg.BufferCycles)
	if cfg.SpoolDir != "" {
		onDisk, left, err := spool.Open(cfg.SpoolDir, cfg.BufferCycles)
		if err != nil {
			log.Error().Err(err).Msg("the spool cannot be opened, cycles are kept in memory until it can")
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
		defer onDisk.Close()
		buffer = onDisk
	}
	worker := collectors.NewWorker(cfg, pool, buffer, heart, log)
	defer worker.Close()
	for _, warning := range cfg.Warnings {
		log.Warn().Msg(warning)
	}
	names := make([]string, len(worker.Targets))
	for i, s := range worker.Targets {
		names[i] = s.Name
	}
	log.Info().Str("version", version).Str("commit", commit).Strs("monitored", names).
		Stringer("health_interval", cfg.HealthInterval).Stringer("metrics_interval", cfg.MetricsInterval).
		Bool("system_alerts", cfg.SystemAlerts).Msg("ops-worker starts")
	worker.Run(ctx)
	if n := buffer.Len(); n > 0 && cfg.SpoolDir == "" {
		log.Warn().Int("cycles", n).Msg("cycles that could not be stored are lost: there is no SPOOL_DIR")
	}
	log.Info().Msg("ops-worker stopped")
	return nil
}

// withPool runs fn on a pool of its own; a command that is no loop does not
// wait for a database that is away.
func withPool(ctx context.Context, cfg config.Config, fn func(*pgxpool.Pool) error) error {
	pool, err := db.Open(ctx, cfg.DatabaseOptions())
	if err != nil {
		return err
	}
	defer db.Close(pool)
	return fn(pool)
}

func newMigrateCommand(load loader) *cobra.Command {
	migrate := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema up to date, take it back, or show it",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	sub := func(use, short string, fn func(ctx context.Context, m *db.Migrator, out io.Writer) error) *cobra.Command {
		cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := load()
				if err != nil {
					return err
				}
				return withPool(cmd.Context(), cfg, func(pool *pgxpool.Pool) (err error) {
					m, err := db.NewMigrator(pool)
					if err != nil {
						return err
					}
					defer func() { err = errors.Join(err, m.Close()) }()
					return fn(cmd.Context(), m, cmd.OutOrStdout())
				})
			}}
		migrate.AddCommand(cmd)
		return cmd
	}
	sub("up", "Apply the migrations and make sure of the platform's tables and role", func(ctx context.Context, m *db.Migrator, out io.Writer) error {
		changes, err := m.Up(ctx)
		return errors.Join(printChanges(out, changes, "nothing to do"), err)
	})
	var all bool
	down := sub("down", "Take back the newest migration; with --all every one, and the samples with them", func(ctx context.Context, m *db.Migrator, out io.Writer) error {
		changes, err := m.Down(ctx, all)
		return errors.Join(printChanges(out, changes, "nothing to take back"), err)
	})
	down.Flags().BoolVar(&all, "all", false, "take back every migration: service_health and system_metrics are dropped")
	sub("status", "List the migrations and when they were applied", func(ctx context.Context, m *db.Migrator, out io.Writer) error {
		states, err := m.Status(ctx)
		if err != nil {
			return err
		}
		return printTable(out, []string{"MIGRATION", "APPLIED"}, len(states), func(i int) []any {
			applied := "pending"
			if at := states[i].AppliedAt; !at.IsZero() {
				applied = at.UTC().Format(time.RFC3339)
			}
			return []any{states[i].Name, applied}
		})
	})
	return migrate
}

func printChanges(out io.Writer, changes []db.Change, none string) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintln(out, none)
		return err
	}
	return printTable(out, []string{"OBJECT", "ACTION", "DETAIL"}, len(changes), func(i int) []any {
		return []any{changes[i].Object, changes[i].Action, changes[i].Detail}
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

func newHealthcheckCommand(load loader) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit 0 while the loops of the worker on this machine turn, 1 when one stands still",
		Long: "Reads the heartbeat that `ops-worker run` leaves in STATE_DIR, so it needs neither\n" +
			"a port nor the database: a database that is away is not mended by a restart.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := load()
			if err != nil {
				return err
			}
			return heartbeat.Check(cfg.StateDir, cfg.ServiceName)
		},
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "ops-worker %s (commit %s, built %s)\n", version, commit, date)
			return err
		},
	}
}

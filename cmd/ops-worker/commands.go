package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/heartbeat"
)

// loader reads the settings when a command needs them.
type loader func() (config.Config, error)

func newRootCommand(environ []string) *cobra.Command {
	load := func() (config.Config, error) { return config.FromEnvironment(environ) }
	run := newRunCommand(load)
	root := &cobra.Command{
		Use:   "ops-worker",
		Short: "The IoT platform's health monitor and metrics collector",
		Long: "ops-worker polls the platform's services, keeps service_health and the system\n" +
			"alerts up to date, and appends the platform's metrics to system_metrics.\n" +
			"Without a command it runs, as `ops-worker run` does.\n\n" +
			"All settings come from the environment; docs/configuration.md lists them.",
		RunE:          run.RunE,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(versionLine())
	root.Flags().AddFlagSet(run.Flags())
	root.AddCommand(run, newMigrateCommand(load), newOnceCommand(load), newHealthcheckCommand(environ), newDoctorCommand(load),
		newStatusCommand(load, environ), newMaintenanceCommand(load), newGrantsCommand(load), newVersionCommand())
	return root
}

// wantsCommand is what a command does that is nothing without one of those below it.
func wantsCommand(text string) func(*cobra.Command, []string) error {
	return func(*cobra.Command, []string) error { return &exitError{exitUsage, text} }
}

// withDatabase is a command on a pool of its own. It does not wait for a database that
// is away, as the loops do.
func withDatabase(load loader, run func(cmd *cobra.Command, args []string, pool *pgxpool.Pool) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return withPool(cmd.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName), func(pool *pgxpool.Pool) error { return run(cmd, args, pool) })
	}
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

// withPools runs fn on the worker's two pools: its own, and that of aggregates that take
// long, which take no connection from the loops.
func withPools(ctx context.Context, cfg config.Config, fn func(own, beside *pgxpool.Pool) error) error {
	options := db.OptionsFrom(cfg.Database, cfg.ServiceName)
	return withPool(ctx, options, func(own *pgxpool.Pool) error {
		options.MinConns, options.MaxConns = 0, 1
		return withPool(ctx, options, func(beside *pgxpool.Pool) error { return fn(own, beside) })
	})
}

// newTable aligns the cells of its lines, which tabs divide.
func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func newHealthcheckCommand(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit 0 while the loops of the worker on this machine turn, 1 when one stands still",
		Long: "Reads the file that `ops-worker run` writes into STATE_DIR. It needs neither a port nor\n" +
			"the database, and exits 0 while the database is away: a restart would not help.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			worker, err := config.HeartbeatFrom(environ)
			if err != nil {
				return err
			}
			return heartbeat.Check(worker.StateDir, worker.ServiceName)
		},
	}
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					Version  string `json:"version"`
					Commit   string `json:"commit"`
					Built    string `json:"built"`
					Go       string `json:"go"`
					Platform string `json:"platform"`
				}{version, commit, date, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func versionLine() string {
	return fmt.Sprintf("ops-worker %s (commit %s, built %s)\n", version, commit, date)
}

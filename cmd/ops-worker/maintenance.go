package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/maintenance"
)

func newMaintenanceCommand(load loader) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "maintenance",
		Short: "Keep system alerts from opening for a while; list such windows, or end them",
		RunE:  wantsCommand("maintenance wants a command: start, list, end"),
	}
	list := &cobra.Command{Use: "list", Short: "List the windows that are on or to come", Args: cobra.NoArgs,
		RunE: withDatabase(load, func(cmd *cobra.Command, _ []string, pool *pgxpool.Pool) error { return listWindows(cmd, pool, asJSON) })}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(newMaintenanceStartCommand(load), list,
		&cobra.Command{Use: "end [ID...]", Short: "End the windows with these IDs, or every one-time window that is on", RunE: withDatabase(load, endWindows)})
	return cmd
}

func newMaintenanceStartCommand(load loader) *cobra.Command {
	var length time.Duration
	var services []string
	var reason string
	cmd := &cobra.Command{Use: "start --for 2h --reason TEXT", Short: "Open no system alert from now on, for all services or for some", Args: cobra.NoArgs}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if length <= 0 || strings.TrimSpace(reason) == "" {
			return &exitError{exitUsage, "both are needed: --for, above 0 such as 30m, 2h or 7d, and --reason"}
		}
		cfg, err := load()
		if err != nil {
			return err
		}
		if cmd.Flags().Changed("service") { // empty, it does not mean all of them
			if err := checkServices(services, cfg.Monitored()); err != nil {
				return err
			}
		}
		return withPool(cmd.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName), func(pool *pgxpool.Pool) error {
			w, err := maintenance.Start(cmd.Context(), pool, reason, services, length)
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "from the next health check on no system alert opens for %s until %s; `ops-worker maintenance end %s` ends that\n",
					humanize.OneLine(w.Whose()), maintenance.Instant(w.Ends), w.ID)
			}
			return err
		})
	}
	cmd.Flags().Func("for", "how long: seconds, or such as 30m, 2h or 7d", func(text string) (err error) {
		length, err = config.ParseDuration(text)
		return err
	})
	cmd.Flags().StringSliceVar(&services, "service", nil, "a monitored service, or several with commas (default all)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever lists the windows")
	return cmd
}

// checkServices refuses a name that is not monitored: its window would do nothing.
func checkServices(names, monitored []string) error {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, name := range names {
		if !slices.Contains(monitored, name) {
			near := cmp.Or(strings.Join(humanize.Near(name, monitored), " or "), strings.Join(humanize.Few(monitored, 20), ", "))
			return &exitError{exitUsage, fmt.Sprintf("--service: %q is not monitored; perhaps %s", name, near)}
		}
	}
	return nil
}

func listWindows(cmd *cobra.Command, pool *pgxpool.Pool, asJSON bool) error {
	windows, now, err := maintenance.List(cmd.Context(), pool)
	if err != nil {
		return err
	}
	type row struct {
		maintenance.Window
		On bool `json:"on"`
	}
	rows := make([]row, len(windows))
	table := newTable(cmd.OutOrStdout())
	fmt.Fprintln(table, "ID\tSTATE\tSERVICES\tWHEN\tREASON")
	for i, w := range windows {
		rows[i] = row{w, w.On(now)}
		state := cmp.Or(w.Fault, "to come")
		if rows[i].On {
			state = "on"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", humanize.OneLine(w.ID), state, humanize.OneLine(w.Whose()), w.When(), humanize.OneLine(w.Name))
	}
	switch {
	case asJSON:
		return printJSON(cmd.OutOrStdout(), rows)
	case len(rows) == 0:
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "none: no maintenance window is on or to come")
		return err
	}
	return table.Flush()
}

func endWindows(cmd *cobra.Command, ids []string, pool *pgxpool.Pool) error {
	ended, err := maintenance.End(cmd.Context(), pool, ids)
	if err != nil { // what was ended is taken back
		return err
	}
	for _, w := range ended {
		fmt.Fprintf(cmd.OutOrStdout(), "ended for %s: window %s (%s)\n", humanize.OneLine(w.Whose()), humanize.OneLine(w.ID), humanize.OneLine(w.Name))
	}
	return nil
}

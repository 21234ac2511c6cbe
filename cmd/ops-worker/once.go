package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ops_worker/collectors"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// onceLimit bounds the one cycle and what stands around it, without the aggregates.
const onceLimit = time.Minute

type onceFlags struct{ asJSON, dryRun, anyDatabase bool }

func newOnceCommand(load loader) *cobra.Command {
	var flags onceFlags
	once := &cobra.Command{
		Use:   "once",
		Short: "Run one cycle and print what it collected",
		Long: "Runs one cycle as `ops-worker run` would, and prints what it collected. Exits 1 if the\n" +
			"cycle failed. While another replica collects, nothing is stored, or the table would\n" +
			"have the cycle twice.",
		RunE: wantsCommand("once wants a command: health, metrics"),
	}
	once.PersistentFlags().BoolVar(&flags.asJSON, "json", false, "print JSON")
	once.PersistentFlags().BoolVar(&flags.dryRun, "dry-run", false, "store nothing, and leave the schema as it is")
	anyDatabaseFlag(once.PersistentFlags(), &flags.anyDatabase)
	once.AddCommand(
		&cobra.Command{Use: "health", Short: "Probe every service once", Args: cobra.NoArgs,
			RunE: runOnce(load, &flags, 0, onceHealth)},
		&cobra.Command{Use: "metrics", Short: "Collect every sample once, however long they take", Args: cobra.NoArgs,
			RunE: runOnce(load, &flags, len(collectors.Aggregates), onceMetrics)})
	return once
}

// runOnce runs one cycle under the lease, or without storing anything where the
// lease cannot be had.
func runOnce(load loader, flags *onceFlags, aggregates int,
	cycle func(ctx context.Context, w *collectors.Worker, flags *onceFlags, out io.Writer) (leader string, err error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), onceLimit+time.Duration(aggregates)*cfg.AggregateTimeout)
		defer cancel()
		return withPools(ctx, cfg, func(own, beside *pgxpool.Pool) error {
			worker := collectors.NewWorker(collectors.Options{Config: cfg, Pool: own, Beside: beside, Buffer: spool.NewMemory(1),
				AnyDatabase: flags.anyDatabase, Log: newLogger(cfg, formatted(cfg, cmd.ErrOrStderr()))})
			if !flags.dryRun {
				if err := worker.Prepare(ctx); err != nil {
					return err
				}
			}
			leader, err := cycle(ctx, worker, flags, cmd.OutOrStdout())
			if leader != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "ops-worker: %s collects, so nothing was stored\n", leader)
			}
			return err
		})
	}
}

func onceHealth(ctx context.Context, w *collectors.Worker, flags *onceFlags, out io.Writer) (leader string, err error) {
	found, leader, err := w.OnceHealth(ctx, flags.dryRun)
	return leader, errors.Join(printHealth(out, found, flags.asJSON), err)
}

func onceMetrics(ctx context.Context, w *collectors.Worker, flags *onceFlags, out io.Writer) (leader string, err error) {
	cycle, failed, leader, err := w.OnceMetrics(ctx, flags.dryRun)
	if len(failed) > 0 {
		if away := w.Store.Ping(ctx); away != nil {
			err = away
		} else {
			err = errors.Join(err, fmt.Errorf("aggregates that failed, whose samples are missing: %s", strings.Join(failed, ", ")))
		}
	}
	return leader, errors.Join(printMetrics(out, cycle, flags.asJSON), err)
}

func printHealth(out io.Writer, observations []probe.Observation, asJSON bool) error {
	if asJSON {
		type row struct {
			Service    string             `json:"service"`
			Status     probe.Status       `json:"status"`
			LatencyMS  float64            `json:"latency_ms,omitempty"`
			HTTPStatus int                `json:"http_status,omitempty"`
			Counters   map[string]float64 `json:"counters,omitempty"`
			Error      string             `json:"error,omitempty"`
		}
		rows := make([]row, len(observations))
		for i, o := range observations {
			rows[i] = row{o.Service, o.Status, milliseconds(o.Latency), o.HTTPStatus, o.Counters, o.Err}
		}
		return printJSON(out, rows)
	}
	table := newTable(out)
	fmt.Fprintln(table, "SERVICE\tSTATE\tLATENCY\tCOUNTERS\tREASON")
	for _, o := range observations {
		latency, reason := "-", "-"
		if o.Latency > 0 {
			latency = fmt.Sprintf("%.1f ms", milliseconds(o.Latency))
		}
		if o.Status != probe.Healthy {
			reason = o.Reason()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", o.Service, o.Status, latency, len(o.Counters), reason)
	}
	return table.Flush()
}

func printMetrics(out io.Writer, cycle spool.Cycle, asJSON bool) error {
	if asJSON {
		type row struct {
			Time    time.Time       `json:"time"`
			Metric  string          `json:"metric_name"`
			Service string          `json:"service"`
			Tags    json.RawMessage `json:"tags"`
			Value   float64         `json:"value"`
		}
		rows := make([]row, len(cycle.Samples))
		for i, s := range cycle.Samples {
			rows[i] = row{cycle.At, s.Metric, s.Service, json.RawMessage(s.Tags), s.Value}
		}
		return printJSON(out, rows)
	}
	fmt.Fprintf(out, "cycle of %s\n", cycle.At.Format(time.RFC3339Nano))
	table := newTable(out)
	fmt.Fprintln(table, "SERVICE\tMETRIC\tVALUE\tTAGS")
	for _, s := range cycle.Samples {
		fmt.Fprintf(table, "%s\t%s\t%.15g\t%s\n", s.Service, s.Metric, s.Value, s.Tags)
	}
	return table.Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

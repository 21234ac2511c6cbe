package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ops_worker/collectors"
	"ops_worker/internal/config"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// onceDeadline bounds the one cycle and what stands around it.
const onceDeadline = time.Minute

func newOnceCommand(load loader) *cobra.Command {
	once := &cobra.Command{
		Use:   "once",
		Short: "Run one cycle and print what it collected",
		Long: "Runs one cycle as `ops-worker run` would, prints what it collected, and exits 1 if\n" +
			"the cycle failed. While another replica collects, nothing is stored: the cycle\n" +
			"would stand in the table twice.",
		Args: knownCommand,
		RunE: subcommandWanted,
	}
	var asJSON, dryRun, anyDatabase bool
	once.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON")
	once.PersistentFlags().BoolVar(&dryRun, "dry-run", false, "store nothing, and leave the schema as it is")
	anyDatabaseFlag(once.PersistentFlags(), &anyDatabase)
	sub := func(name, short string, aggregates int, cycle func(ctx context.Context, w *collectors.Worker, out io.Writer) (leader string, err error)) {
		once.AddCommand(&cobra.Command{Use: name, Short: short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := load()
				if err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(cmd.Context(), onceDeadline+time.Duration(aggregates)*cfg.AggregateTimeout)
				defer cancel()
				return runOnce(ctx, cmd, cfg, dryRun, anyDatabase, cycle)
			}})
	}
	sub("health", "Probe every service once", 0, func(ctx context.Context, w *collectors.Worker, out io.Writer) (string, error) {
		found, leader, err := w.OnceHealth(ctx, dryRun)
		return leader, errors.Join(printHealth(out, found, asJSON), err)
	})
	sub("metrics", "Collect every sample once, however long they take", len(collectors.Aggregates), func(ctx context.Context, w *collectors.Worker, out io.Writer) (string, error) {
		cycle, failed, leader, err := w.OnceMetrics(ctx, dryRun)
		if len(failed) > 0 {
			if away := w.Store.Ping(ctx); away != nil {
				err = away
			} else {
				err = errors.Join(err, fmt.Errorf("aggregates that failed, whose samples are missing: %s", strings.Join(failed, ", ")))
			}
		}
		return leader, errors.Join(printMetrics(out, cycle, asJSON), err)
	})
	return once
}

// runOnce runs one cycle under the lease, or without storing anything where the
// lease cannot be had.
func runOnce(ctx context.Context, cmd *cobra.Command, cfg config.Config, dryRun, anyDatabase bool, cycle func(context.Context, *collectors.Worker, io.Writer) (string, error)) error {
	return withPools(ctx, cfg, func(p pools) error {
		worker := collectors.NewWorker(collectors.Options{Config: cfg, Pool: p.own, Beside: p.beside, Buffer: spool.NewMemory(1),
			AnyDatabase: anyDatabase, Log: newLogger(cfg, cmd.ErrOrStderr())})
		if !dryRun {
			if err := worker.Prepare(ctx); err != nil {
				return refusal(err)
			}
		}
		leader, err := cycle(ctx, worker, cmd.OutOrStdout())
		if leader != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "ops-worker: %s collects, so nothing was stored\n", leader)
		}
		return err
	})
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
	// Of many services those are shown that are not well.
	well := 0
	if len(observations) > mostRows {
		all := len(observations)
		observations = slices.DeleteFunc(slices.Clone(observations), func(o probe.Observation) bool { return o.Status == probe.Healthy })
		well = all - len(observations)
	}
	err := printTable(out, []string{"SERVICE", "STATUS", "LATENCY", "COUNTERS", "REASON"}, len(observations), func(i int) []any {
		o := observations[i]
		latency, reason := "-", "-"
		if o.Latency > 0 {
			latency = fmt.Sprintf("%.1f ms", milliseconds(o.Latency))
		}
		if o.Status != probe.Healthy {
			reason = o.Reason()
		}
		return []any{o.Service, o.Status, latency, len(o.Counters), reason}
	})
	if well > 0 {
		fmt.Fprintf(out, "and %d services that are healthy: --json has all\n", well)
	}
	return err
}

// mostRows is how many services are shown whatever they are.
const mostRows = 50

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
	return printTable(out, []string{"SERVICE", "METRIC", "VALUE", "TAGS"}, len(cycle.Samples), func(i int) []any {
		s := cycle.Samples[i]
		tags := s.Tags
		if tags == "{}" {
			tags = "-"
		}
		return []any{s.Service, s.Metric, fmt.Sprintf("%.15g", s.Value), tags}
	})
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

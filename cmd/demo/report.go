package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// totals, services, samples and alerts are what a report shows. Reading the whole of system_metrics is right for a
// demonstration's few thousand rows, and for nothing larger.
const (
	totals = `SELECT count(DISTINCT time), count(*) FROM system_metrics`

	services = `
SELECT service, details->>'status', coalesce(latency_ms || ' ms', '-'), extract(epoch FROM now() - checked_at)::int,
       CASE WHEN status = 'healthy' THEN '' ELSE coalesce(details->>'error', 'HTTP ' || (details->>'http_status'), '') END
FROM service_health
ORDER BY service`

	samples = `
SELECT coalesce(service, '-'), string_agg(metric_name || '=' || value, '  ' ORDER BY metric_name)
FROM system_metrics
WHERE time = (SELECT max(time) FROM system_metrics)
GROUP BY service
ORDER BY service`

	alerts = `
SELECT summary, status, extract(epoch FROM coalesce(closed_at, now()) - created_at)::int
FROM fleet_alert
WHERE tenant_id = '__system__'
ORDER BY closed_at DESC NULLS FIRST, created_at DESC
LIMIT 3`
)

// printReport shows what the worker has written so far, in one write, so that its log lines do not cut it in two.
func printReport(ctx context.Context, pool *pgxpool.Pool, output io.Writer) error {
	var buffer bytes.Buffer
	var cycles, points int64
	if err := pool.QueryRow(ctx, totals).Scan(&cycles, &points); err != nil {
		return fmt.Errorf("count the samples: %w", err)
	}
	fmt.Fprintf(&buffer, "\n── %s ── %d cycles, %d points ──\n", time.Now().Format(time.TimeOnly), cycles, points)

	table := tabwriter.NewWriter(&buffer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tHEALTH\tLATENCY\tCHECKED\tREASON")
	var service, status, latency, reason, values string
	var age int
	if err := each(ctx, pool, services, []any{&service, &status, &latency, &age, &reason}, func() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d s ago\t%s\n", service, status, latency, age, reason)
	}); err != nil {
		return fmt.Errorf("read service_health: %w", err)
	}
	fmt.Fprintln(table)
	fmt.Fprintln(table, "SERVICE\tNEWEST SAMPLES")
	if err := each(ctx, pool, samples, []any{&service, &values}, func() {
		fmt.Fprintf(table, "%s\t%s\n", service, values)
	}); err != nil {
		return fmt.Errorf("read system_metrics: %w", err)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("lay out the report: %w", err)
	}

	var summary string
	var seconds int
	if err := each(ctx, pool, alerts, []any{&summary, &status, &seconds}, func() {
		fmt.Fprintf(&buffer, "system alert %s: %s, for %d s\n", status, summary, seconds)
	}); err != nil {
		return fmt.Errorf("read fleet_alert: %w", err)
	}
	if _, err := output.Write(buffer.Bytes()); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return nil
}

// each calls row for every row of a query, after its columns are scanned into columns.
func each(ctx context.Context, pool *pgxpool.Pool, query string, columns []any, row func()) error {
	rows, err := pool.Query(ctx, query)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		row()
		return nil
	})
	return err
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"ops_worker/internal/pgtest"
)

// The platform's services share a pooler in transaction mode with the worker, and keep it busy: what the worker describes in
// one trip and executes in the next may be another client's statement by then.
func TestBehindABusyPooler(t *testing.T) {
	t.Parallel()
	for _, size := range []int{2, 3} {
		for _, reset := range []int{0, 1} {
			t.Run(fmt.Sprintf("size %d, reset always %d", size, reset), func(t *testing.T) {
				t.Parallel()
				database := pgtest.NewEmpty(t)
				database.Exec(t, fmt.Sprintf("ALTER DATABASE %q SET datestyle = German", database.Name))
				pooler := pgtest.NewPgBouncer(t, database.URL, "transaction", fmt.Sprintf("default_pool_size = %d\nserver_reset_query_always = %d", size, reset))
				keepBusy(t, pooler.URL, 4)
				environ := append(environment(t, database), "DATABASE_URL="+pooler.URL)
				command(t, environ, "migrate", "up").want(t, exitOK, "00001_worker_tables.sql", "")
				command(t, environ, "once", "health").want(t, exitOK, "HTTP 503", "")
				wantCycles(t, database, environ, 10)
				command(t, environ, "status").want(t, exitOK, "evaluator", "")
				if r := command(t, environ, "doctor", "--json"); strings.Contains(r.stdout, "scan") || strings.Contains(r.stdout, "prepared statement") || strings.Contains(r.stdout, "SQLSTATE") {
					t.Errorf("doctor: %s", r.stdout)
				}
				// Nothing is left on the connections that others get next, but what PgBouncer sets for each client.
				next := database.PoolAs(t, pooler.URL)
				for range 20 {
					pgtest.WantRows(t, next, `SELECT name, setting FROM pg_settings WHERE source = 'session'
						AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')`)
				}
				command(t, environ, "migrate", "down", "--all", "--force").want(t, exitOK, "reverted", "")
			})
		}
	}
}

// keepBusy keeps a pooler busy until the test ends: each client sends unnamed statements, described in one trip and bound in
// the next, as fast as it can. Between the two a server connection may serve somebody else, and that is what most of these
// clients meet: what they get is of no interest.
func keepBusy(t *testing.T, pooler string, clients int) {
	t.Helper()
	config, err := pgx.ParseConfig(pooler)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	for i := range clients {
		statement := "SELECT $1::int" + strings.Repeat(", $2::text", i%2)
		args := []any{1, "x"}[:1+i%2]
		running.Go(func() {
			for ctx.Err() == nil {
				conn, err := pgx.ConnectConfig(ctx, config)
				for err == nil && ctx.Err() == nil && !conn.IsClosed() {
					_, _ = conn.Exec(ctx, statement, args...)
				}
				if err == nil {
					_ = conn.Close(ctx)
				}
			}
		})
	}
}

// wantCycles lets a worker run until so many cycles of its metrics and one of its checks are stored, and looks for errors of
// the database in its log.
func wantCycles(t *testing.T, database *pgtest.Database, environ []string, cycles int) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var log bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- execute(ctx, []string{"run"}, environ, &bytes.Buffer{}, &log) }()
	pool := database.Pool(t)
	defer func() {
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	pgtest.Eventually(t, fmt.Sprintf("%d cycles are stored", cycles), func() bool {
		return pgtest.Count(t, pool, "SELECT count(*) FROM pg_class WHERE relname = 'ops_worker_lease'") > 0 &&
			pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= cycles &&
			pgtest.Count(t, pool, "SELECT count(*) FROM service_health") > 0
	})
	stop()
	if status := <-ended; status != exitOK {
		t.Errorf("the worker ended with %d", status)
	}
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "SQLSTATE") && !strings.Contains(line, `"loop":"aggregates"`) || strings.Contains(line, "scan") {
			t.Error(line)
		}
	}
}

// As docs/operation.md promises: a start that migrates needs no fifth connection.
func TestAFirstStartNeedsFourConnections(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	role, address := database.Role(t, "NOSUPERUSER CREATEROLE CONNECTION LIMIT 4")
	database.Exec(t, "GRANT ALL ON SCHEMA public TO "+role)
	wantCycles(t, database, append(environment(t, database), "DATABASE_URL="+address), 1)
}

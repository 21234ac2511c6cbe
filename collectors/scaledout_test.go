package collectors

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/logtest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// pod is an ingest that counts a hundred messages a second, from so many at its
// start.
type pod struct {
	started time.Time
	from    float64
}

func (p pod) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n := int64(p.from + 100*time.Since(p.started).Seconds())
	fmt.Fprintf(w, `{"status":"healthy","counters":{"messages_received":%d,"messages_written":%d,"messages_rejected":0,"queue_depth":1}}`, n, n)
}

// serve runs handlers, each at an address of its own, at the same port, which is
// free at all of them.
func serve(t *testing.T, handlers map[string]http.Handler) (port string) {
	t.Helper()
	for range 20 {
		port = "0"
		var listeners []net.Listener
		for address := range handlers {
			listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
			if err != nil {
				break
			}
			listeners = append(listeners, listener)
			_, port, _ = net.SplitHostPort(listener.Addr().String())
		}
		if len(listeners) < len(handlers) {
			for _, l := range listeners {
				l.Close()
			}
			continue
		}
		for _, l := range listeners {
			host, _, _ := net.SplitHostPort(l.Addr().String())
			server := httptest.NewUnstartedServer(handlers[host])
			server.Listener.Close()
			server.Listener = l
			server.Start()
			t.Cleanup(server.Close)
		}
		return port
	}
	t.Fatal("no port is free at every address")
	return ""
}

// named resolves every name to these addresses.
type named []netip.Addr

func (n named) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) { return n, nil }

// scaledOut runs a worker on an ingest until so many cycles are stored.
func scaledOut(t *testing.T, resolver probe.Resolver, ingest string, log *logtest.Log) *pgtest.Database {
	t.Helper()
	database := pgtest.New(t)
	cfg := workerConfig(t, database.URL, "INGEST_HEALTH_URL="+ingest)
	workers, err := db.Open(t.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName))
	if err != nil {
		t.Fatal(err)
	}
	defer workers.Close()
	worker := NewWorker(Options{Config: cfg, Pool: workers, Buffer: spool.NewMemory(100), Log: log.Logger()})
	if resolver != nil {
		worker.http.Resolver = resolver
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = worker.Run(ctx) }) // the database is the platform's
	pool := database.Pool(t)
	pgtest.Eventually(t, "twelve cycles are stored", func() bool {
		return pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= 12
	})
	return database
}

// rates are what /metrics/history?rate=true makes of a series: the difference of
// neighbouring points, or where that is negative the newer value, by the seconds
// between.
const rates = `
	SELECT round((CASE WHEN value < before THEN value ELSE value - before END / extract(epoch FROM time - earlier))::numeric)::int AS rate
	FROM (SELECT time, value, lag(value) OVER w AS before, lag(time) OVER w AS earlier
	      FROM system_metrics WHERE metric_name = 'messages_written' WINDOW w AS (ORDER BY time)) s
	WHERE before IS NOT NULL`

// Two pods of a hundred messages a second each, whose counters are far apart,
// behind one name: the chart shows two hundred.
func TestTwoPodsBehindOneNameAreTheirSum(t *testing.T) {
	t.Parallel()
	now := time.Now()
	port := serve(t, map[string]http.Handler{"127.0.0.11": pod{now, 5_000_000}, "127.0.0.12": pod{now, 20_000}})
	var log logtest.Log
	database := scaledOut(t, named{netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.12")}, "http://ingest.example:"+port, &log)
	pool := database.Pool(t)
	found := pgtest.Rows(t, pool, rates)
	t.Logf("messages a second: %s", strings.Join(found, " "))
	if len(found) < 10 {
		t.Errorf("%d points", len(found))
	}
	// A cycle that the machine delays has its neighbours' share, and no more.
	pgtest.WantRows(t, pool, `SELECT count(*) FROM (`+rates+`) r WHERE rate NOT BETWEEN 100 AND 300`, "0")
	pgtest.WantRows(t, pool, `SELECT (max(value) - min(value)) / extract(epoch FROM max(time) - min(time)) BETWEEN 180 AND 220
		FROM system_metrics WHERE metric_name = 'messages_written'`, "true")
	pgtest.WantRows(t, pool, `SELECT min(value) BETWEEN 5020000 AND 5080000 FROM system_metrics WHERE metric_name = 'messages_written'`, "true")
	pgtest.WantRows(t, pool, `SELECT DISTINCT metric_name || ' ' || value FROM system_metrics WHERE service = 'ingest' AND metric_name IN ('healthy', 'instances', 'instances_healthy', 'queue_depth') ORDER BY 1`,
		"healthy 1", "instances 2", "instances_healthy 2", "queue_depth 2")
	pgtest.WantRows(t, pool, "SELECT status, details->>'instances', details->'unhealthy_instances' FROM service_health WHERE service = 'ingest'", "healthy 2 -")
	wantNoErrors(t, &log)
}

// The same two behind one address, which leads each connection to the other one:
// their counters are absent, and all else goes on.
func TestTwoPodsBehindOneAddressHaveNoCounters(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var connections atomic.Int64
	pods := []pod{{now, 5_000_000}, {now, 20_000}}
	type key struct{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(key{}).(pod).ServeHTTP(w, r)
	}))
	server.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, key{}, pods[connections.Add(1)%2])
	}
	server.Start()
	defer server.Close()
	var log logtest.Log
	database := scaledOut(t, nil, server.URL, &log)
	pool := database.Pool(t)
	pgtest.WantRows(t, pool, "SELECT DISTINCT metric_name FROM system_metrics WHERE service = 'ingest' AND metric_name <> 'latency_ms'", "healthy")
	pgtest.WantRows(t, pool, "SELECT count(*) >= 12, min(value) FROM system_metrics WHERE service = 'ingest' AND metric_name = 'healthy'", "true 1")
	pgtest.WantRows(t, pool, "SELECT DISTINCT metric_name FROM system_metrics WHERE service = 'evaluator' AND metric_name <> 'latency_ms' ORDER BY 1", "alerts_created", "evaluation_errors", "healthy", "rules_evaluated")
	if lines := log.Lines(t, "several instances answer behind one address, the service's counters are not stored"); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["error"]), "headless") {
		t.Errorf("log: %v", lines)
	}
}

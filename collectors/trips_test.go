package collectors

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/spool"
)

// trips counts the round trips on connections: what is written once the other side
// has said something is another one.
type trips struct {
	mu sync.Mutex
	n  int
}

func (t *trips) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &countedConn{Conn: c, trips: t, heard: true}, err
}

// taken are those since the last call.
func (t *trips) taken() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.n
	t.n = 0
	return n
}

type countedConn struct {
	net.Conn
	trips *trips
	heard bool
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.trips.mu.Lock()
	if c.heard {
		c.trips.n++
	}
	c.heard = false
	c.trips.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.trips.mu.Lock()
	c.heard = c.heard || n > 0
	c.trips.mu.Unlock()
	return n, err
}

// extraServices is HEALTH_SERVICES with so many services at one address.
func extraServices(n int, url string) string {
	list := "HEALTH_SERVICES="
	for i := range n {
		list += fmt.Sprintf("s%d=%s/s%[1]d,", i, url)
	}
	return list
}

// A cycle takes as few round trips of hundreds of services as of none. Of metrics
// they are the aggregates and the store; of health the question whether the
// database answers, the rows with the checks, and the alerts.
func TestACycleTakesFewRoundTrips(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"counters":{"n":1}}`) }))
	t.Cleanup(server.Close)
	for _, n := range []int{0, 250} {
		cfg, err := config.FromEnvironment([]string{"DATABASE_URL=" + pgtest.New(t).URL, extraServices(n, server.URL),
			"INGEST_HEALTH_URL=" + server.URL, "EVALUATOR_HEALTH_URL=" + server.URL, "PG_POOL_MIN=0"})
		if err != nil {
			t.Fatal(err)
		}
		poolConfig, err := db.PoolConfig(cfg.DatabaseOptions())
		if err != nil {
			t.Fatal(err)
		}
		var trips trips
		poolConfig.ConnConfig.DialFunc = trips.dial
		pool, err := pgxpool.NewWithConfig(t.Context(), poolConfig)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		worker := NewWorker(cfg, pool, spool.NewMemory(1), NoHeart, zerolog.Nop())
		t.Cleanup(worker.Close)
		if _, err := worker.Lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, cycle := range []struct {
			name string
			run  func(context.Context) error
			want int
		}{{"metrics", worker.Metrics.Cycle, 2}, {"health", worker.Health.Cycle, 3}} {
			for range 2 { // the first also connects, and each may meet a counter whose stored total is to be read
				if err := cycle.run(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			trips.taken()
			if err := cycle.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := trips.taken(); took != cycle.want {
				t.Errorf("%d services: a cycle of %s took %d round trips, want %d", n, cycle.name, took, cycle.want)
			}
		}
	}
}

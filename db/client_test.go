package db_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// halfOpenNetwork dials connections whose other side can be lost without a word.
type halfOpenNetwork struct {
	mu    sync.Mutex
	conns []*halfOpenConn
}

type halfOpenConn struct {
	net.Conn
	lost atomic.Bool
}

func (c *halfOpenConn) Write(b []byte) (int, error) {
	if c.lost.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (n *halfOpenNetwork) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &halfOpenConn{Conn: conn}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, c)
	return c, nil
}

// loseAll loses the other side of every connection that stands; new ones are well.
func (n *halfOpenNetwork) loseAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.lost.Store(true)
	}
}

// close ends every connection, so that nobody waits for a farewell.
func (n *halfOpenNetwork) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.Close()
	}
}

// One deadline is enough to find out that a network has lost its connections: each
// further one would cost a statement its whole time.
func TestAfterADeadlineEveryConnectionIsNew(t *testing.T) {
	t.Parallel()
	var network halfOpenNetwork
	cfg := pgtest.New(t).Pool(t).Config()
	cfg.ConnConfig.DialFunc = network.dial
	cfg.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	t.Cleanup(network.close)
	var idle []*pgxpool.Conn
	for range cfg.MaxConns {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	for _, conn := range idle {
		conn.Release()
	}
	network.loseAll()

	read := func(limit time.Duration) error {
		return db.NewClient(pool, limit).Read(t.Context(), func(ctx context.Context, q *db.Queries) error {
			_, err := q.Now(ctx)
			return err
		})
	}
	if err := read(100 * time.Millisecond); !db.IsTimeout(err) {
		t.Fatalf("on a connection that is half open: %v, want a timeout", err)
	}
	if err := read(5 * time.Second); err != nil {
		t.Errorf("after that: %v", err)
	}
}

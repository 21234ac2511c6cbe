package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say how to reach the database. They come validated from the
// configuration.
type Options struct {
	// URL starts with postgres:// or postgresql://. It holds the password: keep
	// it out of logs.
	URL string
	// MinConns and MaxConns bound the pool.
	MinConns, MaxConns int32
	// ConnectTimeout bounds one attempt to connect.
	ConnectTimeout time.Duration
	// ApplicationName is what pg_stat_activity shows.
	ApplicationName string
}

// A connection that was idle for pingAfter is checked before its use, for at
// most pingTimeout: it may be half open, and would eat the deadline of the cycle
// that drew it. The loops' own come round more often than that and are not.
const (
	pingAfter   = 30 * time.Second
	pingTimeout = 2 * time.Second
)

// ErrURL is an address that is none. It quotes nothing: pieces of a password may
// stand anywhere in it.
var ErrURL = errors.New("not a valid postgres:// URL (characters like @ : / # ? % in a user name or password must be percent-encoded)")

// PoolConfig is the pool's configuration for o, or an error that does not hold
// the URL.
func PoolConfig(o Options) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		// pgx's own message quotes parts of the URL, and where a password holds
		// an unescaped character those parts are pieces of it.
		return nil, ErrURL
	}
	cfg.MinConns = o.MinConns
	cfg.MaxConns = o.MaxConns
	cfg.PingTimeout = pingTimeout
	cfg.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	cfg.ConnConfig.ConnectTimeout = o.ConnectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = o.ApplicationName
	// Neither named prepared statements, which PgBouncer before 1.21 loses
	// between transactions, nor cached descriptions, which go stale when the
	// platform changes a table. One round trip a query all the same.
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.ConnConfig.StatementCacheCapacity = 0
	cfg.ConnConfig.DescriptionCacheCapacity = 0
	return cfg, nil
}

// Open makes the pool without waiting for the database: connections are made
// when they are first needed.
func Open(ctx context.Context, o Options) (*pgxpool.Pool, error) {
	cfg, err := PoolConfig(o)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return pool, nil
}

// closePatience is how long Close waits for the server's side of a goodbye.
const closePatience = 300 * time.Millisecond

// Close closes the pool, but does not wait for a server that does not answer:
// pgx would, for two minutes, and the process is about to end.
func Close(pool *pgxpool.Pool) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		pool.Close()
	}()
	patience := time.NewTimer(closePatience)
	defer patience.Stop()
	select {
	case <-closed:
	case <-patience.C:
	}
}

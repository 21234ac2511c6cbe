package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db/pgurl"
	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
)

// Options say how to reach the database, and are already validated.
type Options struct {
	URL string // holds the password: keep it out of logs
	// Reload, if set, returns the URL for every connection, since the password may have
	// been rotated. Its error holds no secret.
	Reload             func() (string, error)
	MinConns, MaxConns int32
	ConnectTimeout     time.Duration // of one attempt
	ApplicationName    string        // shown in pg_stat_activity
}

// OptionsFrom converts the settings.
func OptionsFrom(d config.Database, applicationName string) Options {
	return Options{
		URL:             d.URL,
		Reload:          d.Reload(),
		MinConns:        int32(d.MinConns),
		MaxConns:        int32(d.MaxConns),
		ConnectTimeout:  d.ConnectTimeout,
		ApplicationName: applicationName,
	}
}

const (
	// A connection that was idle for pingAfter is pinged before its use: it may be half
	// open, and would cost a cycle its deadline. The loops' own are in use more often.
	pingAfter   = 30 * time.Second
	pingTimeout = 2 * time.Second
	// leastConnectTimeout is the least connect timeout of each of several addresses.
	leastConnectTimeout = 2 * time.Second
	// closeTimeout is how long Close waits for the server.
	closeTimeout = 300 * time.Millisecond
	// maxMessage bounds one message of the server, in bytes. The first bytes of another
	// protocol, such as SMTP, would announce hundreds of megabytes, all allocated at once.
	maxMessage = 16 << 20
)

// formats are start-up parameters, so that they also hold outside of transactions,
// whatever the database or the role sets. PgBouncer keeps these for each client; the
// other formats are in ConfigureTransaction.
var formats = map[string]string{"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}

// Open makes the pool. It does not wait for the database: connections are made when
// they are first needed.
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

// Close closes the pool, but does not wait for a server that does not answer: pgx would,
// for two minutes.
func Close(pool *pgxpool.Pool) { backoff.AtMost(closeTimeout, pool.Close) }

// PoolConfig is the pool's configuration for o. Its error does not hold the URL.
func PoolConfig(o Options) (*pgxpool.Config, error) {
	cfg, err := pgurl.Parse(o.URL)
	if err != nil {
		return nil, err
	}
	cfg.BeforeConnect = func(ctx context.Context, connecting *pgx.ConnConfig) error {
		err := renew(connecting, o)
		if err == nil {
			err = spreadTimeout(ctx, connecting, o.ConnectTimeout)
		}
		if err != nil {
			return &renewError{err}
		}
		return nil
	}
	cfg.MinConns = o.MinConns
	cfg.MaxConns = o.MaxConns
	cfg.PingTimeout = pingTimeout
	cfg.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	configure(cfg.ConnConfig, o)
	return cfg, nil
}

// renewError is a failed file or look-up that a new connection needs.
type renewError struct{ error }

func (e *renewError) Unwrap() error { return e.error }

// renew reads what a new connection needs: the URL, and with it the files of a password
// (PGPASSFILE), of certificates and of a key.
func renew(connecting *pgx.ConnConfig, o Options) error {
	address := o.URL
	if o.Reload != nil {
		var err error
		if address, err = o.Reload(); err != nil {
			return err
		}
	}
	parsed, err := pgurl.Parse(address) // which removes the pool's own parameters
	if err != nil {
		return err
	}
	fresh := parsed.ConnConfig
	configure(fresh, o)
	// Keep what the pool's owner has set beyond the URL.
	fresh.DialFunc, fresh.DefaultQueryExecMode = connecting.DialFunc, connecting.DefaultQueryExecMode
	*connecting = *fresh
	return nil
}

// spreadTimeout divides the timeout of one attempt among all addresses of all hosts,
// which pgx tries one after the other. So a dead machine costs only its share, and each
// address is tried with TLS and without before the next one.
func spreadTimeout(ctx context.Context, c *pgx.ConnConfig, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ways := append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	var spread []*pgconn.FallbackConfig
	var failed error
	addresses := 0
	for len(ways) > 0 {
		host, port := ways[0].Host, ways[0].Port
		n := slices.IndexFunc(ways, func(w *pgconn.FallbackConfig) bool { return w.Host != host || w.Port != port })
		if n < 0 {
			n = len(ways)
		}
		found := []string{host}
		if !strings.HasPrefix(host, "/") { // the directory of a Unix socket
			var err error
			if found, err = c.LookupFunc(ctx, host); err != nil {
				failed = errors.Join(failed, err)
			}
		}
		addresses += len(found)
		for _, address := range found {
			for _, way := range ways[:n] {
				spread = append(spread, &pgconn.FallbackConfig{Host: address, Port: port, TLSConfig: way.TLSConfig})
			}
		}
		ways = ways[n:]
	}
	if addresses == 0 {
		return failed
	}
	c.Host, c.Port, c.TLSConfig, c.Fallbacks = spread[0].Host, spread[0].Port, spread[0].TLSConfig, spread[1:]
	if addresses > 1 {
		c.ConnectTimeout = max(leastConnectTimeout, timeout/time.Duration(addresses))
	}
	return nil
}

// configure sets what holds for every connection.
func configure(c *pgx.ConnConfig, o Options) {
	c.ConnectTimeout = o.ConnectTimeout
	setStartUp(c.RuntimeParams, "application_name", o.ApplicationName)
	for name, value := range formats {
		setStartUp(c.RuntimeParams, name, value)
	}
	// No named prepared statements, which PgBouncer before 1.21 loses between
	// transactions, and no cached descriptions, which are wrong once the platform
	// changes a table. This mode still needs only one round trip a query.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity = 0
	c.DescriptionCacheCapacity = 0
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		frontend := pgproto3.NewFrontend(r, w)
		frontend.SetMaxBodyLen(maxMessage)
		return frontend
	}
}

// setStartUp sets a start-up parameter, and removes the URL's own: names ignore case.
func setStartUp(parameters map[string]string, name, value string) {
	maps.DeleteFunc(parameters, func(given, _ string) bool { return strings.EqualFold(given, name) })
	parameters[name] = value
}

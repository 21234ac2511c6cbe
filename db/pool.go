package db

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db/pgurl"
	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
)

// Options say how to reach the database. They come validated from the
// configuration.
type Options struct {
	// URL starts with postgres:// or postgresql://. It holds the password: keep
	// it out of logs.
	URL string
	// Reload, where set, is asked for the URL anew at every connection, since a
	// password may have been rotated. Its error holds no secret.
	Reload func() (string, error)
	// MinConns and MaxConns bound the pool.
	MinConns, MaxConns int32
	// ConnectTimeout bounds one attempt to connect.
	ConnectTimeout time.Duration
	// ApplicationName is what pg_stat_activity shows.
	ApplicationName string
	// CancelOnServer lets the server end a statement that the worker gives up: of one
	// that takes long it would not notice.
	CancelOnServer bool
}

// OptionsFrom are the options that the settings describe.
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

// A connection that was idle for pingAfter is checked before its use, for at
// most pingTimeout: it may be half open, and would eat the deadline of the cycle
// that drew it. The loops' own come round more often than that and are not.
const (
	pingAfter   = 30 * time.Second
	pingTimeout = 2 * time.Second
)

// PoolConfig is the pool's configuration for o, or an error that does not hold
// the URL.
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

// renewError is a file or a look-up that a new connection needs and that cannot be
// had: no fault of those that stand.
type renewError struct{ err error }

func (e *renewError) Error() string { return e.err.Error() }
func (e *renewError) Unwrap() error { return e.err }

// renew reads anew what a connection needs: the URL, and with it the files of a
// password (PGPASSFILE), of certificates and of a key.
func renew(connecting *pgx.ConnConfig, o Options) error {
	address := o.URL
	if o.Reload != nil {
		var err error
		if address, err = o.Reload(); err != nil {
			return err
		}
	}
	parsed, err := pgurl.Parse(address) // as a pool's, which takes the pool's own parameters out
	if err != nil {
		return err
	}
	fresh := parsed.ConnConfig
	configure(fresh, o)
	// What the connections' owner has set beyond the URL.
	fresh.DialFunc, fresh.DefaultQueryExecMode = connecting.DialFunc, connecting.DefaultQueryExecMode
	*connecting = *fresh
	return nil
}

// leastTimeout is what each of several addresses gets to answer.
const leastTimeout = 2 * time.Second

// spreadTimeout shares the time of one attempt among the addresses that pgx tries, one
// after the other: those of each host, and of each the records of its name. One alone
// gets all of it. So a machine that is gone costs its share, and the next one is tried
// with TLS and without before it.
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
		c.ConnectTimeout = max(leastTimeout, timeout/time.Duration(addresses))
	}
	return nil
}

// formats are those of values, whatever the database or the role sets. As start-up
// parameters they hold for statements outside of transactions too, and PgBouncer
// keeps these for each client; other formats stand in ConfigureTransaction.
var formats = map[string]string{"client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}

// setStartUp sets a start-up parameter, in place of one that the URL has under the
// same name, which may be written otherwise.
func setStartUp(parameters map[string]string, name, value string) {
	maps.DeleteFunc(parameters, func(given, _ string) bool { return strings.EqualFold(given, name) })
	parameters[name] = value
}

// configure sets what holds for every connection.
func configure(c *pgx.ConnConfig, o Options) {
	c.ConnectTimeout = o.ConnectTimeout
	setStartUp(c.RuntimeParams, "application_name", o.ApplicationName)
	for name, value := range formats {
		setStartUp(c.RuntimeParams, name, value)
	}
	// Neither named prepared statements, which PgBouncer before 1.21 loses
	// between transactions, nor cached descriptions, which go stale when the
	// platform changes a table. One round trip a query all the same.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity = 0
	c.DescriptionCacheCapacity = 0
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		frontend := pgproto3.NewFrontend(r, w)
		frontend.SetMaxBodyLen(maxMessage)
		return frontend
	}
	if o.CancelOnServer {
		c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelPatience}
		}
	}
}

// maxMessage bounds what is read from the server as one message. A server that speaks
// something else, such as SMTP, would be taken to announce hundreds of megabytes, for
// which there would be room made at once.
const maxMessage = 16 << 20

// cancelPatience is how long the server has to end a statement before its connection
// is given up.
const cancelPatience = time.Second

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
func Close(pool *pgxpool.Pool) { backoff.AtMost(closePatience, pool.Close) }

// RootCause is the last error at the bottom: pgx joins one for each address and,
// by default, for TLS and for none, behind a text that names the target again.
func RootCause(err error) error {
	for {
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) {
			return pgErr
		}
		next := errors.Unwrap(err)
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
			next = joined.Unwrap()[len(joined.Unwrap())-1]
		}
		if next == nil {
			return err
		}
		err = next
	}
}

// UnreachableError is a database to which there is no connection, in one line: the
// cause, then host, database and user. It holds no secret.
type UnreachableError struct {
	Cause, Target string
	err           error
}

func (e *UnreachableError) Error() string { return e.Cause + ": " + e.Target }
func (e *UnreachableError) Unwrap() error { return e.err }

// Unreachable explains an error of pool where no connection can be made; any other is
// returned as it is.
func Unreachable(pool *pgxpool.Pool, err error) error {
	var explained *UnreachableError
	if !isConnectError(err) || errors.As(err, &explained) {
		return err
	}
	config := pool.Config().ConnConfig.Config
	root := RootCause(err)
	cause := humanize.OneLine(root.Error())
	var timeout net.Error
	if errors.As(root, &timeout) && timeout.Timeout() {
		cause = "no answer in time"
	}
	return &UnreachableError{cause, Target(config), err}
}

// Target says where a configuration leads, without the password.
func Target(c pgconn.Config) string {
	hosts := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, fallback := range c.Fallbacks {
		host := net.JoinHostPort(fallback.Host, strconv.Itoa(int(fallback.Port)))
		if host != hosts[len(hosts)-1] { // the same again is the one without TLS
			hosts = append(hosts, host)
		}
	}
	return fmt.Sprintf("%s/%s as %s", strings.Join(hosts, ","), c.Database, c.User)
}

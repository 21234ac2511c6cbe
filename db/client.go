package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Client runs the worker's transactions: bounded in time on both sides, and once
// more on another connection where the first one turned out to be dead. After a
// restart of the server or its pooler every idle one is, and all that the worker
// sends may be repeated.
type Client struct {
	// Limit is the server's own time-out for each statement, unless a call says
	// otherwise.
	Limit time.Duration

	pool            *pgxpool.Pool
	relationMissing atomic.Bool
}

// NewClient makes a client whose statements the server gives up after limit.
func NewClient(pool *pgxpool.Pool, limit time.Duration) *Client {
	return &Client{pool: pool, Limit: limit}
}

// Read runs fn in a transaction that only reads.
func (c *Client) Read(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.ReadWithin(ctx, Limits{Statement: c.Limit, Lock: c.Limit}, fn)
}

// ReadWithin is Read with limits of its own.
func (c *Client) ReadWithin(ctx context.Context, limits Limits, fn func(context.Context, *Queries) error) error {
	return c.run(ctx, ReadOnly, limits, fn)
}

// Write runs fn in a transaction, and commits it unless fn fails.
func (c *Client) Write(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.WriteWithin(ctx, c.Limit, fn)
}

// WriteWithin is Write with a limit of its own for each statement.
func (c *Client) WriteWithin(ctx context.Context, limit time.Duration, fn func(context.Context, *Queries) error) error {
	return c.run(ctx, ReadWrite, Limits{Statement: limit, Lock: limit}, fn)
}

// run gives a transaction twice the time of a statement: a connection that is half
// open must not keep a cycle for its whole interval.
func (c *Client) run(ctx context.Context, options pgx.TxOptions, limits Limits, fn func(context.Context, *Queries) error) error {
	deadline := 2 * max(c.Limit, limits.Statement)
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("transaction exceeded its deadline of %s", deadline))
	defer cancel()
	lost, err := c.attempt(ctx, options, limits, fn)
	if ctx.Err() == nil && (lost || IsConflict(err)) {
		_, err = c.attempt(ctx, options, limits, fn)
	}
	c.Note(err)
	return err
}

// attempt runs fn once, and reports whether its connection was lost meanwhile.
func (c *Client) attempt(ctx context.Context, options pgx.TxOptions, limits Limits, fn func(context.Context, *Queries) error) (lost bool, err error) {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return false, Unreachable(c.pool, err)
	}
	defer conn.Release()
	err = InTxWithin(ctx, conn, options, limits, func(q *Queries) error { return fn(ctx, q) })
	lost = conn.Conn().IsClosed()
	if lost && !errors.Is(ctx.Err(), context.Canceled) {
		// The server ends a statement before the deadline. So the connection may be half
		// open, and those beside it too.
		c.dropIdle()
	}
	return lost, err
}

// dropIdle closes the connections that nobody uses. Pool.Reset would also throw away
// one that is being made, which a slow address delays for ever.
func (c *Client) dropIdle() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no goodbye to a server that may be away
	for _, idle := range c.pool.AcquireAllIdle(ctx) {
		_ = idle.Hijack().Close(ctx)
	}
}

// Note takes an error that a statement met, for RelationMissing.
func (c *Client) Note(err error) {
	if IsMissingTable(err) {
		c.relationMissing.Store(true)
	}
}

// RelationMissing reports whether a statement has met a missing table or view
// since the last call.
func (c *Client) RelationMissing() bool { return c.relationMissing.Swap(false) }

// code is the SQLSTATE of a server's error, empty for any other.
func code(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return ""
	}
	return pgErr.Code
}

// IsServerError reports whether the server refused a statement, and the connection
// is well: neither one that it ended nor one that it would not make.
func IsServerError(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && !endsConnection(pgErr) && !isConnectError(err)
}

// endsConnection reports whether the server, or a pooler, ended the connection with
// these words.
func endsConnection(err *pgconn.PgError) bool {
	severity := cmp.Or(err.SeverityUnlocalized, err.Severity)
	return severity == "FATAL" || severity == "PANIC" || strings.HasPrefix(err.Code, "57P") || strings.HasPrefix(err.Code, "08")
}

// isConnectError reports whether no connection could be made.
func isConnectError(err error) bool {
	var connectErr *pgconn.ConnectError
	var renewErr *renewError
	return errors.As(err, &connectErr) || errors.As(err, &renewErr)
}

// IsTimeout reports whether a statement was given up for its duration, by the
// server or here.
func IsTimeout(err error) bool {
	return code(err) == "57014" || code(err) == "" && (errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err))
}

// IsLocked reports whether a statement was given up for a lock.
func IsLocked(err error) bool { return code(err) == "55P03" }

// IsMissingTable reports whether a statement named a table that is not there.
func IsMissingTable(err error) bool { return code(err) == "42P01" }

// IsForbidden reports whether a right was missing, or row-level security would
// have hidden rows.
func IsForbidden(err error) bool { return code(err) == "42501" }

// IsConflict reports whether another transaction was in the way at that moment:
// a serialization failure or a deadlock.
func IsConflict(err error) bool { return code(err) == "40001" || code(err) == "40P01" }

// IsRowSecurity reports whether row-level security would have hidden rows. The
// server speaks the language it was set up with, so the routine that raised the
// error is what tells it apart.
func IsRowSecurity(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Routine == "check_enable_rls"
}

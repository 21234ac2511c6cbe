package db

import (
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

// Client sends the worker's statements: bounded in time on both sides, and once
// more on a fresh connection where the first one turned out to be dead. After a
// restart of the server or its pooler every idle one is, and all that the worker
// sends may be repeated.
type Client struct {
	// Pool is where the statements go.
	Pool *pgxpool.Pool
	// Limit is the server's own time-out for each statement.
	Limit time.Duration

	relationMissing atomic.Bool
}

// NewClient makes a client whose statements the server gives up after limit.
func NewClient(pool *pgxpool.Pool, limit time.Duration) *Client {
	return &Client{Pool: pool, Limit: limit}
}

// Read runs fn, whose every statement is a transaction of its own that only
// reads, in one round trip.
func (c *Client) Read(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.do(ctx, ReadOnly, fn)
}

// Write is Read for statements that write.
func (c *Client) Write(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.do(ctx, ReadWrite, fn)
}

// WriteTogether runs what queue adds to a batch as one transaction, in one round
// trip; read takes the results of what was queued. Each may wait for a lock as long
// as it may run.
func (c *Client) WriteTogether(ctx context.Context, queue func(*pgx.Batch), read func(pgx.BatchResults) error) error {
	ctx, cancel := withDeadline(ctx, c.Limit)
	defer cancel()
	return c.retrying(ctx, func() error {
		return InOneTrip(ctx, c.Pool, ReadWrite, Limits{Statement: c.Limit, Lock: c.Limit}, queue, read)
	})
}

func (c *Client) do(ctx context.Context, options pgx.TxOptions, fn func(context.Context, *Queries) error) error {
	ctx, cancel := withDeadline(ctx, c.Limit)
	defer cancel()
	return c.retrying(ctx, func() error { return fn(ctx, New(oneTrip{c.Pool, options, c.limits()})) })
}

// limits leave time for other statements where one waits for a lock.
func (c *Client) limits() Limits { return BatchLimits(c.Limit) }

// BatchLimits bound a batch: each statement by limit, and the wait for a lock by
// a quarter of that, so that one locked table leaves time for the others.
func BatchLimits(limit time.Duration) Limits {
	return Limits{Statement: limit, Lock: limit/4 + time.Millisecond}
}

// InTx runs fn in a transaction.
func (c *Client) InTx(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.InTxOf(ctx, c.Limit, fn)
}

// InTxOf is InTx with a limit of its own for each statement.
func (c *Client) InTxOf(ctx context.Context, limit time.Duration, fn func(context.Context, *Queries) error) error {
	ctx, cancel := withDeadline(ctx, limit)
	defer cancel()
	return c.retrying(ctx, func() error {
		return InTx(ctx, c.Pool, ReadWrite, limit, func(q *Queries) error { return fn(ctx, q) })
	})
}

// Retrying runs fn, and once more where its connection turned out to be dead.
func (c *Client) Retrying(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, cancel := withDeadline(ctx, c.Limit)
	defer cancel()
	return c.retrying(ctx, func() error { return fn(ctx) })
}

// withDeadline gives a transaction twice the time of a statement: a connection
// that is half open must not keep a cycle for its whole interval.
func withDeadline(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, 2*limit, fmt.Errorf("transaction exceeded its deadline of %s", 2*limit))
}

func (c *Client) retrying(ctx context.Context, fn func() error) error {
	err := fn()
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		// The server ends a statement before that: the connection may be half open, and
		// those beside it too. The next statement gets a new one.
		c.Pool.Reset()
	case ctx.Err() != nil:
	case IsConnectionError(err):
		c.Pool.Reset()
		err = fn()
	case isConflict(err):
		err = fn()
	}
	c.Note(err)
	return err
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

// IsServerError reports whether the server itself refused: the connection is
// well.
func IsServerError(err error) bool { return code(err) != "" }

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

// IsDivisionByZero reports whether a statement divided by zero, as HoldLease does.
func IsDivisionByZero(err error) bool { return code(err) == "22012" }

// isConflict reports whether another transaction was in the way at that moment:
// a serialization failure or a deadlock.
func isConflict(err error) bool { return code(err) == "40001" || code(err) == "40P01" }

// IsRowSecurity reports whether row-level security would have hidden rows. The
// server speaks the language it was set up with, so the routine that raised the
// error is what tells it apart.
func IsRowSecurity(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Routine == "check_enable_rls"
}

// IsConnectionError reports whether an established connection failed: by the
// server's word that it ends it, or without a word.
func IsConnectionError(err error) bool {
	if err == nil || IsNoRows(err) {
		return false
	}
	var connectErr *pgconn.ConnectError
	var renewErr *renewError
	if errors.As(err, &connectErr) || errors.As(err, &renewErr) {
		return false // a new one cannot be had either
	}
	if c := code(err); c != "" {
		return strings.HasPrefix(c, "57P") || strings.HasPrefix(c, "08")
	}
	return !pgconn.Timeout(err)
}

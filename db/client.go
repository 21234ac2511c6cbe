package db

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Client runs the worker's transactions, bounded in time by the server and here. If the
// connection was dead, as all idle ones are after a restart of the server or its pooler,
// it tries once more on another one: every transaction of the worker may be repeated.
type Client struct {
	Limit time.Duration // the server's timeout for each statement, by default

	pool            *pgxpool.Pool
	relationMissing atomic.Bool
}

// NewClient makes a client whose statements the server ends after limit.
func NewClient(pool *pgxpool.Pool, limit time.Duration) *Client {
	return &Client{pool: pool, Limit: limit}
}

// Read runs fn in a transaction that only reads.
func (c *Client) Read(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.ReadWithin(ctx, Limits{Statement: c.Limit, Lock: c.Limit}, fn)
}

// ReadWithin is Read with other limits.
func (c *Client) ReadWithin(ctx context.Context, limits Limits, fn func(context.Context, *Queries) error) error {
	return c.run(ctx, ReadOnly, limits, fn)
}

// Write runs fn in a transaction, and commits it unless fn fails.
func (c *Client) Write(ctx context.Context, fn func(context.Context, *Queries) error) error {
	return c.WriteWithin(ctx, c.Limit, fn)
}

// WriteWithin is Write with another limit for each statement.
func (c *Client) WriteWithin(ctx context.Context, limit time.Duration, fn func(context.Context, *Queries) error) error {
	return c.run(ctx, ReadWrite, Limits{Statement: limit, Lock: limit}, fn)
}

// run gives a transaction twice the time of a statement, so that a half-open connection
// does not cost a cycle its whole interval.
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

// attempt runs fn once, and reports whether its connection was lost.
func (c *Client) attempt(ctx context.Context, options pgx.TxOptions, limits Limits, fn func(context.Context, *Queries) error) (lost bool, err error) {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return false, Unreachable(c.pool, err)
	}
	defer conn.Release()
	err = InTx(ctx, conn, options, limits, func(q *Queries) error { return fn(ctx, q) })
	lost = conn.Conn().IsClosed()
	if lost && !errors.Is(ctx.Err(), context.Canceled) {
		// The server should have ended the statement before the deadline, so this
		// connection may be half open, and the idle ones too.
		c.dropIdle()
	}
	return lost, err
}

// dropIdle closes the idle connections. Pool.Reset would also close those that are being
// made, so that a slow address would never get one.
func (c *Client) dropIdle() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // closes without waiting for the server
	for _, idle := range c.pool.AcquireAllIdle(ctx) {
		_ = idle.Hijack().Close(ctx)
	}
}

// Note takes the error of a statement, for RelationMissing.
func (c *Client) Note(err error) {
	if IsMissingTable(err) {
		c.relationMissing.Store(true)
	}
}

// RelationMissing reports whether a statement has met a missing table or view
// since the last call.
func (c *Client) RelationMissing() bool { return c.relationMissing.Swap(false) }

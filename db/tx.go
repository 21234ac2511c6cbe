package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Beginner is a pool, one connection of it, or a transaction.
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// The kinds of transactions. Each says all of it, since a database or a role may
// have other defaults.
var (
	// ReadWrite is what the worker writes in.
	ReadWrite = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	// ReadOnly also works on a hot standby.
	ReadOnly = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}
	// Snapshot is ReadOnly, and all its statements see one moment.
	Snapshot = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
)

// Limits are the server's own on a transaction, so that it ends what the worker
// cannot end itself.
type Limits struct {
	// Statement bounds each statement, and how long the transaction may idle: a
	// process that was stopped in the middle of one would otherwise keep its row
	// locks, and with the lease's a standby from taking over.
	Statement time.Duration
	// Lock bounds the wait for one lock.
	Lock time.Duration
}

// params never holds 0, which would be no limit.
func (l Limits) params() ConfigureTransactionParams {
	return ConfigureTransactionParams{StatementMs: max(1, l.Statement.Milliseconds()), LockMs: max(1, l.Lock.Milliseconds())}
}

// InTx runs fn in a transaction of at most limit a statement, and commits it
// unless fn fails. What it configures ends with the transaction: a pooler's next
// client must not find it.
func InTx(ctx context.Context, on Beginner, options pgx.TxOptions, limit time.Duration, fn func(*Queries) error) error {
	return InTxWithin(ctx, on, options, Limits{Statement: limit, Lock: limit}, fn)
}

// InTxWithin is InTx with limits that differ.
func InTxWithin(ctx context.Context, on Beginner, options pgx.TxOptions, limits Limits, fn func(*Queries) error) error {
	return inTx(ctx, on, options, limits, func(tx pgx.Tx) error { return fn(New(tx)) })
}

func inTx(ctx context.Context, on Beginner, options pgx.TxOptions, limits Limits, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, on, options, func(tx pgx.Tx) error {
		if err := New(tx).ConfigureTransaction(ctx, limits.params()); err != nil {
			return fmt.Errorf("configure transaction: %w", err)
		}
		return fn(tx)
	})
}

// rollbackTimeout bounds the clean-up of a transaction that failed.
const rollbackTimeout = time.Second

// InOneTrip runs what queue adds to a batch as one transaction, in one round
// trip. Read takes the results of what was queued, in their order; a statement
// that fails ends the transaction.
func InOneTrip(ctx context.Context, pool *pgxpool.Pool, options pgx.TxOptions, limits Limits, queue func(*pgx.Batch), read func(pgx.BatchResults) error) (err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	batch := &pgx.Batch{}
	batch.Queue(fmt.Sprintf("begin isolation level %s %s", options.IsoLevel, options.AccessMode))
	Queue(batch, func(q *Queries) { _ = q.ConfigureTransaction(ctx, limits.params()) })
	queue(batch)
	batch.Queue("commit")

	results := conn.SendBatch(ctx, batch)
	defer func() {
		// Only the end of the batch says that it is committed.
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
		if err != nil && !conn.Conn().IsClosed() && conn.Conn().PgConn().TxStatus() != 'I' {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
			defer cancel()
			_, _ = conn.Exec(ctx, "rollback") // where it fails, the connection is given up
		}
	}()
	for range 2 { // begin, and the configuration
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	if err := read(results); err != nil {
		return err
	}
	_, err = results.Exec() // commit
	return err
}

// oneTrip is a DBTX whose every statement is a transaction of its own, in one
// round trip.
type oneTrip struct {
	pool    *pgxpool.Pool
	options pgx.TxOptions
	limits  Limits
}

func (t oneTrip) send(ctx context.Context, sql string, args []any, read func(pgx.BatchResults) error) error {
	return InOneTrip(ctx, t.pool, t.options, t.limits, func(batch *pgx.Batch) { batch.Queue(sql, args...) }, read)
}

func (t oneTrip) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	err = t.send(ctx, sql, args, func(results pgx.BatchResults) error {
		tag, err = results.Exec()
		return err
	})
	return tag, err
}

func (t oneTrip) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return rowFunc(func(dest ...any) error {
		return t.send(ctx, sql, args, func(results pgx.BatchResults) error { return results.QueryRow().Scan(dest...) })
	})
}

// Query is for several rows, which are read in a transaction of more statements.
func (t oneTrip) Query(context.Context, string, ...any) (pgx.Rows, error) {
	return nil, errors.New("several rows are not read in one trip")
}

// rowFunc is a pgx.Row that is asked for when it is scanned.
type rowFunc func(dest ...any) error

func (f rowFunc) Scan(dest ...any) error { return f(dest...) }

// IsNoRows reports whether a :one query found nothing.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

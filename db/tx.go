package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
	return Transaction(ctx, on, options, limits, func(tx pgx.Tx) error { return fn(New(tx)) })
}

// Transaction is InTxWithin for statements that sqlc cannot compile.
func Transaction(ctx context.Context, on Beginner, options pgx.TxOptions, limits Limits, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, on, options, func(tx pgx.Tx) error {
		if err := New(tx).ConfigureTransaction(ctx, limits.params()); err != nil {
			return fmt.Errorf("configure transaction: %w", err)
		}
		return fn(tx)
	})
}

// IsNoRows reports whether a :one query found nothing.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// Raw is what q runs its statements on, for those that sqlc cannot compile.
func (q *Queries) Raw() DBTX { return q.db }

// LeaseName is the name of the one row of the lease's table.
const LeaseName = "ops_worker"

package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Beginner is a pool, one connection of it, or a transaction.
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// The kinds of transactions. Each is explicit, since a database or a role may have other
// defaults.
var (
	ReadWrite = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	// ReadOnly also works on a hot standby.
	ReadOnly = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}
	// Snapshot is ReadOnly, and all its statements see the same state.
	Snapshot = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
)

// Limits are enforced by the server, in case the worker cannot end a transaction itself.
type Limits struct {
	// Statement bounds each statement, and how long the transaction may idle: a process
	// that is stopped inside a transaction would otherwise keep its row locks, such as
	// the lease's.
	Statement time.Duration
	Lock      time.Duration // bounds the wait for one lock
}

// params are at least 1: 0 would mean no limit.
func (l Limits) params() ConfigureTransactionParams {
	return ConfigureTransactionParams{StatementMs: max(1, l.Statement.Milliseconds()), LockMs: max(1, l.Lock.Milliseconds())}
}

// InTx runs fn in a transaction with these limits, and commits it unless fn fails. Its
// settings end with the transaction: a pooler's next client must not get them.
func InTx(ctx context.Context, on Beginner, options pgx.TxOptions, limits Limits, fn func(*Queries) error) error {
	return Transaction(ctx, on, options, limits, func(tx pgx.Tx) error { return fn(New(tx)) })
}

// Transaction is InTx for statements that sqlc cannot compile.
func Transaction(ctx context.Context, on Beginner, options pgx.TxOptions, limits Limits, fn func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, on, options, func(tx pgx.Tx) error {
		if err := New(tx).ConfigureTransaction(ctx, limits.params()); err != nil {
			return fmt.Errorf("configure transaction: %w", err)
		}
		return fn(tx)
	})
}

// Raw runs statements that sqlc cannot compile.
func (q *Queries) Raw() DBTX { return q.db }

// LeaseName names the worker's row in the lease's table.
const LeaseName = "ops_worker"

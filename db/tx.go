package db

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// InTx runs fn in a transaction of at most limit a statement, on the server's
// side too, and commits it unless fn fails. The server also ends a transaction
// that idles for so long: a process that was stopped in the middle of one would
// otherwise keep its row locks, and with the lease's a standby from taking over.
func InTx(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, fn func(*Queries) error) error {
	// In one round trip, and for this transaction alone: a pooler's next client
	// must not find the limits.
	ms := max(1, limit.Milliseconds())
	options := pgx.TxOptions{BeginQuery: fmt.Sprintf(
		"begin; set local statement_timeout = %d; set local idle_in_transaction_session_timeout = %d", ms, ms)}
	return pgx.BeginTxFunc(ctx, pool, options, func(tx pgx.Tx) error { return fn(New(tx)) })
}

// IsNoRows reports whether a :one query found nothing.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

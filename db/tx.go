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
// side too, and commits it unless fn fails.
func InTx(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, fn func(*Queries) error) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		q := New(tx)
		if _, err := q.LimitTransaction(ctx, max(1, limit.Milliseconds())); err != nil {
			return fmt.Errorf("limit transaction: %w", err)
		}
		return fn(q)
	})
}

// IsNoRows reports whether a :one query found nothing.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

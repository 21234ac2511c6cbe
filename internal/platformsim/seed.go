package platformsim

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed seed.sql
var seedSQL string

//go:embed move.sql
var moveSQL string

// Seed fills the platform's tables, in their first form, with a small fleet. Rows that are there already stay.
func Seed(ctx context.Context, pool *pgxpool.Pool) error {
	// Without arguments the statements go as one text, and so are one transaction.
	if _, err := pool.Exec(ctx, seedSQL); err != nil {
		return fmt.Errorf("seed the platform's tables: %w", err)
	}
	return nil
}

// Move lets the seeded fleet live on for about a second: devices come and go, jobs are queued and delivered,
// telemetry arrives and what is older than ten minutes goes.
func Move(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, moveSQL); err != nil {
		return fmt.Errorf("move the fleet: %w", err)
	}
	return nil
}

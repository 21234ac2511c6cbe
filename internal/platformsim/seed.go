package platformsim

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/schema"
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

// AwaitTables waits until the worker's migrations have made the tables that Seed fills.
func AwaitTables(ctx context.Context, pool *pgxpool.Pool) error {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		if missing, err := schema.MissingTables(ctx, db.New(pool)); err == nil && len(missing) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the tables: %w", context.Cause(ctx))
		case <-pause.C:
		}
	}
}

// RunFleet seeds the fleet once the tables stand, and moves it every interval until the context ends, which is no
// error. A database that is away meanwhile is waited for.
func RunFleet(ctx context.Context, pool *pgxpool.Pool, interval time.Duration) error {
	if err := AwaitTables(ctx, pool); err != nil {
		return stopped(ctx, err)
	}
	if err := Seed(ctx, pool); err != nil {
		return stopped(ctx, err)
	}
	move := time.NewTicker(interval)
	defer move.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-move.C:
			_ = Move(ctx, pool) // the next one makes up for it
		}
	}
}

// stopped leaves out the error of what the end of the context has interrupted.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"ops_worker/migrations"
)

// The worker's own goose tables: the platform's migrator keeps another pair.
const (
	versionTable = "ops_worker_schema_version"
	lockTable    = "ops_worker_schema_lock"
)

// The migration lock expires by itself when its holder dies, so a crash in the
// middle of a migration delays the next start by at most this long.
const (
	lockLease     = 15 * time.Second
	lockHeartbeat = 3 * time.Second
	lockRetry     = time.Second
	lockRetries   = 120
)

// Change is one thing that bringing the schema up to date did, or could not do.
type Change struct {
	Object string // the table, view or role
	Action string // created, granted, migrated or failed
	Detail string
}

// Failed reports whether the change was wanted and could not be made.
func (c Change) Failed() bool { return c.Action == "failed" }

// MigrationState is one migration and when it was applied; zero if it was not.
type MigrationState struct {
	Version   int64
	Name      string
	AppliedAt time.Time
}

// Migrator brings the schema up to date. It uses connections of its own, since
// goose holds one while its lock needs another, and the pool may have just one.
type Migrator struct {
	pool     *pgxpool.Pool
	provider *goose.Provider
}

// NewMigrator prepares the embedded migrations for pool's database.
func NewMigrator(pool *pgxpool.Pool) (*Migrator, error) {
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableName(lockTable),
		lock.WithTableLeaseDuration(lockLease),
		lock.WithTableHeartbeatInterval(lockHeartbeat),
		lock.WithTableLockTimeout(lockRetry, lockRetries),
		lock.WithTableLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, stdlib.OpenDB(*pool.Config().ConnConfig), migrations.FS,
		goose.WithTableName(versionTable),
		goose.WithLocker(locker),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	return &Migrator{pool: pool, provider: provider}, nil
}

// Close frees the migrator's connections.
func (m *Migrator) Close() error { return m.provider.Close() }

// Up applies what is pending, then makes sure of the platform's tables and
// role, which it does at every start: the platform may have changed since. It
// takes no lock where nothing is pending.
func (m *Migrator) Up(ctx context.Context) ([]Change, error) {
	var changes []Change
	pending, err := m.provider.HasPending(ctx)
	if err != nil {
		return nil, fmt.Errorf("read schema version: %w", err)
	}
	if pending {
		results, err := m.provider.Up(ctx)
		for _, r := range results {
			changes = append(changes, Change{Object: r.Source.Path, Action: "migrated", Detail: r.Duration.Round(time.Millisecond).String()})
		}
		if err != nil {
			return changes, fmt.Errorf("apply migrations: %w", err)
		}
	}
	q := New(m.pool)
	// The role before the tables, since views on older servers belong to it, and
	// again behind them, for its rights on what was made.
	for _, ensure := range []func() error{
		func() error { return m.ensureRole(ctx, q, &changes) },
		func() error {
			rows, err := q.EnsurePlatform(ctx)
			for _, row := range rows {
				changes = append(changes, Change(row))
			}
			return err
		},
		func() error { return m.ensureRole(ctx, q, &changes) },
	} {
		if err := ensure(); err != nil {
			return changes, fmt.Errorf("make sure of the platform's tables and role: %w", err)
		}
	}
	return changes, nil
}

// ensureRole adds what it did to changes, but no failure twice.
func (m *Migrator) ensureRole(ctx context.Context, q *Queries, changes *[]Change) error {
	rows, err := q.EnsureOperatorRole(ctx)
	for _, row := range rows {
		if c := Change(row); !slices.Contains(*changes, c) {
			*changes = append(*changes, c)
		}
	}
	return err
}

// Down takes back the newest migration, or all of them.
func (m *Migrator) Down(ctx context.Context, all bool) ([]Change, error) {
	var results []*goose.MigrationResult
	var err error
	if all {
		results, err = m.provider.DownTo(ctx, 0)
	} else {
		var result *goose.MigrationResult
		if result, err = m.provider.Down(ctx); result != nil {
			results = append(results, result)
		}
	}
	if errors.Is(err, goose.ErrNoNextVersion) {
		return nil, nil
	}
	var changes []Change
	for _, r := range results {
		changes = append(changes, Change{Object: r.Source.Path, Action: "reverted", Detail: r.Duration.Round(time.Millisecond).String()})
	}
	if err != nil {
		return changes, fmt.Errorf("take back migrations: %w", err)
	}
	return changes, nil
}

// Status lists every migration in order.
func (m *Migrator) Status(ctx context.Context) ([]MigrationState, error) {
	list, err := m.provider.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read schema version: %w", err)
	}
	states := make([]MigrationState, len(list))
	for i, s := range list {
		states[i] = MigrationState{Version: s.Source.Version, Name: s.Source.Path, AppliedAt: s.AppliedAt}
	}
	return states, nil
}

// Migrate brings the schema of pool's database up to date.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := MigrateUp(ctx, pool)
	return err
}

// MigrateUp is Migrate, and tells what it did.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool) (changes []Change, err error) {
	m, err := NewMigrator(pool)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.Up(ctx)
}

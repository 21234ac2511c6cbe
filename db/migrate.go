package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"ops_worker/migrations"
)

// The worker's own goose tables: the platform's migrator keeps another pair.
const (
	VersionTable = "ops_worker_schema_version"
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

// What a Change did.
const (
	created  = "created"
	failed   = "failed"
	reverted = "reverted"
)

// Change is one thing that bringing the schema up to date did, or could not do.
type Change struct {
	Object string // the table, view, role or migration
	Action string // created, granted, migrated, reverted or failed
	Detail string
}

// Failed reports whether the change was wanted and could not be made.
func (c Change) Failed() bool { return c.Action == failed }

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
	// again runs every migration, whatever the version table says.
	again *goose.Provider
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
	m := &Migrator{pool: pool}
	connections := stdlib.OpenDB(migrationConfig(pool), stdlib.OptionAfterConnect(writeByDefault))
	newProvider := func(versioning goose.ProviderOption) (*goose.Provider, error) {
		return goose.NewProvider(goose.DialectPostgres, connections, migrations.FS, versioning,
			goose.WithLocker(locker),
			goose.WithDisableGlobalRegistry(true),
			goose.WithLogger(goose.NopLogger()),
		)
	}
	if m.provider, err = newProvider(goose.WithTableName(VersionTable)); err == nil {
		m.again, err = newProvider(goose.WithDisableVersioning(true))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare migrations: %w", err), connections.Close())
	}
	return m, nil
}

// migrationConfig is the pool's, for goose: values in binary, so that it does not
// matter which formats the database, the role or the pooler sets.
func migrationConfig(pool *pgxpool.Pool) pgx.ConnConfig {
	config := pool.Config().ConnConfig.Copy()
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	return *config
}

// writeByDefault lets goose, which begins its transactions by the defaults,
// write where a database or a role has others.
func writeByDefault(ctx context.Context, conn *pgx.Conn) error {
	ordinary, err := New(conn).TransactionDefaultsAreOrdinary(ctx)
	if err != nil || ordinary {
		return err
	}
	_, err = conn.Exec(ctx, "SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'")
	return err
}

// Close frees the migrator's connections, which both providers share.
func (m *Migrator) Close() error { return m.provider.Close() }

// Up applies what is pending, then makes sure of every table of ours and of the
// platform's, and of its role, which it does at every start: they may have
// changed since. It takes no lock on the migrations where nothing is pending.
func (m *Migrator) Up(ctx context.Context) ([]Change, error) {
	var changes []Change
	pending, err := m.provider.HasPending(ctx)
	if err != nil {
		return nil, fmt.Errorf("read schema version: %w", err)
	}
	if pending {
		results, err := m.provider.Up(ctx)
		changes = append(changes, changesOf(results, "migrated")...)
		if err != nil {
			return changes, fmt.Errorf("apply migrations: %w", err)
		}
	}
	again, err := m.makeAgain(ctx)
	changes = append(changes, again...)
	if err != nil {
		return changes, err
	}
	made, err := ensurePlatform(ctx, m.pool, atStart)
	return append(changes, made...), err
}

// changesOf lists migrations that were run.
func changesOf(results []*goose.MigrationResult, action string) []Change {
	changes := make([]Change, len(results))
	for i, r := range results {
		changes[i] = Change{r.Source.Path, action, r.Duration.Round(time.Millisecond).String()}
	}
	return changes
}

// makeAgain makes anew what was dropped of the worker's own since its migration.
func (m *Migrator) makeAgain(ctx context.Context) ([]Change, error) {
	missing, err := missingOwn(ctx, m.pool)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	if _, err := m.again.Up(ctx); err != nil {
		return nil, fmt.Errorf("make %s again: %w", strings.Join(missing, ", "), err)
	}
	changes := make([]Change, len(missing))
	for i, name := range missing {
		changes[i] = Change{name, created, "again: it was dropped"}
	}
	return changes, nil
}

// missingOwn are those of the worker's own relations that do not stand.
func missingOwn(ctx context.Context, pool *pgxpool.Pool) ([]string, error) {
	var stands map[string]DescribeRelationsRow
	err := InTx(ctx, pool, ReadOnly, whileRunning.limits.Statement, func(q *Queries) (err error) {
		stands, err = StandingRelations(ctx, q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for the worker's tables: %w", err)
	}
	return slices.DeleteFunc(OwnRelations(), func(name string) bool {
		_, exists := stands[name]
		return exists
	}), nil
}

// Down takes back the newest migration, or all of them, and with them the views
// that stand in for dropped tables.
func (m *Migrator) Down(ctx context.Context, all bool) (changes []Change, err error) {
	var results []*goose.MigrationResult
	if all {
		if changes, err = dropStandIns(ctx, m.pool); err != nil {
			return nil, err
		}
		results, err = m.provider.DownTo(ctx, 0)
	} else {
		var result *goose.MigrationResult
		if result, err = m.provider.Down(ctx); result != nil {
			results = append(results, result)
		}
	}
	changes = append(changes, changesOf(results, reverted)...)
	if err != nil && !errors.Is(err, goose.ErrNoNextVersion) {
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

// Ensure makes sure of the schema beside running loops: what was dropped is made
// again, what the platform has replaced gets its view.
func Ensure(ctx context.Context, pool *pgxpool.Pool) ([]Change, error) {
	missing, err := missingOwn(ctx, pool)
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return MigrateUp(ctx, pool)
	}
	return ensurePlatform(ctx, pool, whileRunning)
}

// MigrateUp brings the schema of pool's database up to date and tells what it
// did.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool) (changes []Change, err error) {
	m, err := NewMigrator(pool)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.Up(ctx)
}

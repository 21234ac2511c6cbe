// Package schema keeps what stands in the database: the worker's own tables, which
// goose migrates, what the platform's system routes read, and the rights to both.
package schema

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"ops_worker/db"
	"ops_worker/migrations"
)

// The worker's own goose tables: the platform's migrator keeps another pair.
const (
	VersionTable = "ops_worker_schema_version"
	lockTable    = "ops_worker_schema_lock"
)

// LeaseTable is the lease's.
const LeaseTable = "ops_worker_lease"

// The migration lock expires by itself when its holder dies, so a crash in the
// middle of a migration delays the next start by at most this long.
const (
	lockTTL       = 15 * time.Second
	lockHeartbeat = 3 * time.Second
	lockRetry     = time.Second
	lockRetries   = 120
)

// What a Change did.
const (
	created  = "created"
	granted  = "granted"
	failed   = "failed"
	reverted = "reverted"
)

// Change is one thing that bringing the schema up to date did, or could not do.
type Change struct {
	Object string // the table, view, role or migration
	Action string // created, granted, marked, migrated, reverted or failed
	Detail string
}

// Failed reports whether the change was wanted and could not be made.
func (c Change) Failed() bool { return c.Action == failed }

// MigrationState is one migration and when it was applied; zero if it was not. One
// of a newer worker has no name.
type MigrationState struct {
	Version   int64
	Name      string
	AppliedAt time.Time
}

// Applied reports whether the migration is.
func (s MigrationState) Applied() bool { return !s.AppliedAt.IsZero() }

// migrator brings the schema of a database up to date.
type migrator struct {
	pool        *pgxpool.Pool
	connections *sql.DB // what goose runs on
	anyDatabase bool    // accept one with tables, none of which is the platform's
	limits      db.Limits
}

// migrationConnections are what goose needs: one to migrate on, and one for its lock.
const migrationConnections = 2

func newMigrator(pool *pgxpool.Pool, anyDatabase bool, limits db.Limits) *migrator {
	m := &migrator{pool: pool, connections: migrationDB(pool), anyDatabase: anyDatabase, limits: limits}
	m.connections.SetMaxOpenConns(migrationConnections)
	return m
}

// migrationDB takes its connections from the pool, or makes its own where that has too
// few.
func migrationDB(pool *pgxpool.Pool) *sql.DB {
	config := pool.Config()
	if config.MaxConns >= migrationConnections {
		return stdlib.OpenDBFromPool(pool)
	}
	var connecting []stdlib.OptionOpenDB
	if config.BeforeConnect != nil { // of a pool that Open made
		connecting = append(connecting, stdlib.OptionBeforeConnect(config.BeforeConnect))
	}
	return stdlib.OpenDB(*config.ConnConfig, connecting...)
}

// MigrateUp applies what is pending, then makes sure of every table of ours and of the
// platform's, and of its role, which it does at every start: they may have changed
// since. It takes no lock on the migrations where nothing is pending. With an error,
// the changes are those that were made before it. anyDatabase accepts a database with
// tables, none of which is the platform's.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool, anyDatabase bool) ([]Change, error) {
	return up(ctx, pool, anyDatabase, atStart)
}

// Ensure is MigrateUp beside running loops: what waits for a migration of the platform
// is given up soon, and tried again.
func Ensure(ctx context.Context, pool *pgxpool.Pool, anyDatabase bool) ([]Change, error) {
	return up(ctx, pool, anyDatabase, whileRunning)
}

func up(ctx context.Context, pool *pgxpool.Pool, anyDatabase bool, limits db.Limits) ([]Change, error) {
	m := newMigrator(pool, anyDatabase, limits)
	changes, err := m.up(ctx)
	return changes, errors.Join(err, m.connections.Close())
}

func (m *migrator) up(ctx context.Context) ([]Change, error) {
	changes, err := m.ensureTimescale(ctx)
	if err != nil {
		return nil, err
	}
	var marked []Change
	wanted := false
	err = db.Transaction(ctx, m.pool, db.ReadWrite, m.limits, func(tx pgx.Tx) (err error) {
		q := db.New(tx)
		if err := q.LockSchema(ctx); err != nil {
			return err
		}
		if marked, err = settle(ctx, tx, m.anyDatabase); err != nil {
			return err
		}
		wanted, err = wantsMigrations(ctx, q)
		return err
	})
	if err != nil {
		return changes, fmt.Errorf("look at the schema: %w", err)
	}
	changes = append(changes, marked...)
	if wanted {
		made, err := m.apply(ctx)
		changes = append(changes, made...)
		if err != nil {
			return changes, err
		}
	}
	made, err := ensurePlatform(ctx, m.pool, m.limits, m.anyDatabase)
	return append(changes, made...), err
}

// wantsMigrations reports whether migrations are pending, or what they have made does
// not stand.
func wantsMigrations(ctx context.Context, q *db.Queries) (bool, error) {
	if err := CheckRowSecurity(ctx, q); err != nil {
		return false, err
	}
	states, err := Migrations(ctx, q)
	if err != nil {
		return false, err
	}
	missing, err := missingOwn(ctx, q)
	return len(missing) > 0 || slices.ContainsFunc(states, func(s MigrationState) bool { return !s.Applied() }), err
}

// missingOwn are those of the worker's own relations that do not stand.
func missingOwn(ctx context.Context, q *db.Queries) ([]string, error) {
	stands, err := StandingRelations(ctx, q)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(OwnRelations(), func(name string) bool {
		_, exists := stands[name]
		return exists
	}), nil
}

// apply runs the migrations that are pending; and all of them again where what they
// have made was dropped since, which leaves alone what stands.
func (m *migrator) apply(ctx context.Context) (changes []Change, err error) {
	p, err := m.provider()
	if err != nil {
		return nil, err
	}
	results, err := p.Up(ctx)
	changes = changesOf(results, err, "migrated")
	if err != nil {
		return changes, m.explain(ctx, "apply migrations", err)
	}
	var missing []string
	err = db.InTx(ctx, m.pool, db.ReadOnly, m.limits, func(q *db.Queries) (err error) {
		missing, err = missingOwn(ctx, q)
		return err
	})
	if err != nil || len(missing) == 0 {
		return changes, err
	}
	if p, err = m.provider(goose.WithDisableVersioning(true)); err != nil {
		return changes, err
	}
	if _, err := p.Up(ctx); err != nil {
		return changes, m.explain(ctx, fmt.Sprintf("make %s again", strings.Join(missing, ", ")), err)
	}
	for _, name := range missing {
		changes = append(changes, Change{name, created, "again: it was dropped"})
	}
	return changes, nil
}

// provider is goose. With WithDisableVersioning it runs every migration, whatever the
// version table says.
func (m *migrator) provider(options ...goose.ProviderOption) (*goose.Provider, error) {
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableName("public."+lockTable),
		lock.WithTableLeaseDuration(lockTTL),
		lock.WithTableHeartbeatInterval(lockHeartbeat),
		lock.WithTableLockTimeout(lockRetry, lockRetries),
		lock.WithTableLogger(slog.New(slog.DiscardHandler)),
		// What the server refuses for good is not asked for two minutes long.
		lock.WithTableRetryPolicy(func(err error) bool { return !db.IsServerError(err) || db.IsConflict(err) }),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare migration lock: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, m.connections, migrations.FS, append(options,
		goose.WithTableName("public."+VersionTable),
		goose.WithLocker(locker),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	return p, nil
}

// holders are the sessions in the way of a migration that gave up on a lock.
func (m *migrator) holders(ctx context.Context) string {
	names := append(OwnTables(), VersionTable, lockTable)
	for _, s := range StandIns() {
		names = append(names, s.Name)
	}
	var holders []db.HoldersOfRow
	err := db.InTx(ctx, m.pool, db.ReadOnly, whileRunning, func(q *db.Queries) (err error) {
		holders, err = q.HoldersOf(ctx, names)
		return err
	})
	if err != nil || len(holders) == 0 {
		return "nobody any more: try again"
	}
	list := make([]string, len(holders))
	for i, h := range holders {
		began := time.Duration(h.Seconds * float64(time.Second)).Round(time.Second)
		list[i] = fmt.Sprintf("pid %d (%s, role %s, %s %s, in a transaction for %s)", h.Pid, h.Application, h.Role, h.State, h.Command, began)
	}
	return strings.Join(list, "; ")
}

// explain says of an error whether a lock was in the way, and whose.
func (m *migrator) explain(ctx context.Context, doing string, err error) error {
	if db.IsLocked(err) {
		return fmt.Errorf("%s: %w; in the way: %s", doing, err, m.holders(ctx))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// changesOf lists migrations that were run, also before one that failed.
func changesOf(results []*goose.MigrationResult, err error, action string) []Change {
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = partial.Applied
	}
	changes := make([]Change, len(results))
	for i, r := range results {
		changes[i] = Change{r.Source.Path, action, r.Duration.Round(time.Millisecond).String()}
	}
	return changes
}

// DownOptions say what Down takes back.
type DownOptions struct {
	// All takes back every migration, and the views that stand in for dropped
	// tables; else it is the newest migration.
	All bool
	// Force does so under a worker that collects, too.
	Force bool
}

// Down takes back migrations. It refuses while a worker collects. With an error, the changes are those that were made before it.
func Down(ctx context.Context, pool *pgxpool.Pool, options DownOptions) ([]Change, error) {
	m := newMigrator(pool, false, whileRunning)
	changes, err := m.down(ctx, options)
	if err != nil {
		err = m.explain(ctx, "take back migrations", err)
	}
	return changes, errors.Join(err, m.connections.Close())
}

func (m *migrator) down(ctx context.Context, options DownOptions) (changes []Change, err error) {
	var states []MigrationState
	err = db.Transaction(ctx, m.pool, db.ReadWrite, whileRunning, func(tx pgx.Tx) error {
		q := db.New(tx)
		if err := refuseElsewhere(ctx, q); err != nil {
			return err
		}
		if err := CheckRowSecurity(ctx, q); err != nil {
			return err
		}
		if states, err = Migrations(ctx, q); err != nil {
			return err
		}
		if !options.Force {
			if err := refuseWhileHeld(ctx, q); err != nil {
				return err
			}
		}
		if options.All {
			changes, err = dropStandIns(ctx, tx)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(states, MigrationState.Applied) {
		return changes, nil // goose would make its table first
	}
	results, err := m.takeBack(ctx, options.All)
	if errors.Is(err, goose.ErrNoNextVersion) {
		err = nil
	}
	return append(changes, changesOf(results, err, reverted)...), err
}

func (m *migrator) takeBack(ctx context.Context, all bool) ([]*goose.MigrationResult, error) {
	p, err := m.provider()
	if err != nil {
		return nil, err
	}
	if all {
		return p.DownTo(ctx, 0)
	}
	result, err := p.Down(ctx)
	if result == nil {
		return nil, err
	}
	return []*goose.MigrationResult{result}, err
}

func refuseWhileHeld(ctx context.Context, q *db.Queries) error {
	if stands, err := q.DescribeRelations(ctx, []string{LeaseTable}); err != nil || len(stands) == 0 {
		return err
	}
	lease, err := q.ReadLease(ctx, db.LeaseName)
	switch {
	case db.IsNoRows(err):
		return nil
	case err == nil && lease.Held:
		return fmt.Errorf("%s collects into these tables: stop it first, or use --force", lease.Holder)
	}
	return err
}

// Migrations lists every migration in order, and when it was applied. It reads
// only.
func Migrations(ctx context.Context, q *db.Queries) ([]MigrationState, error) {
	var states []MigrationState
	for _, file := range must(fs.Glob(migrations.FS, "*.sql")) {
		number, _, _ := strings.Cut(file, "_")
		states = append(states, MigrationState{Version: must(strconv.ParseInt(number, 10, 64)), Name: file})
	}
	stands, err := q.DescribeRelations(ctx, []string{VersionTable})
	if err != nil || len(stands) == 0 {
		return states, err
	}
	if stands[0].RowSecurityActive { // it would seem empty
		return nil, &RowSecurityError{[]string{VersionTable}}
	}
	applied, err := q.AppliedMigrations(ctx)
	for _, a := range applied {
		i := slices.IndexFunc(states, func(s MigrationState) bool { return s.Version == a.VersionID })
		if i < 0 {
			states = append(states, MigrationState{Version: a.VersionID, AppliedAt: a.AppliedAt})
			continue
		}
		states[i].AppliedAt = a.AppliedAt
	}
	return states, err
}

// Status is Migrations of a database that is not asked for anything else.
func Status(ctx context.Context, pool *pgxpool.Pool) (states []MigrationState, err error) {
	err = db.InTx(ctx, pool, db.ReadOnly, whileRunning, func(q *db.Queries) error {
		states, err = Migrations(ctx, q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read schema version: %w", err)
	}
	return states, nil
}

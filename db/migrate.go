package db

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"

	"ops_worker/migrations"
)

// The worker's own goose tables: the platform's migrator keeps another pair.
const (
	VersionTable = "ops_worker_schema_version"
	lockTable    = "ops_worker_schema_lock"
)

// The lease's table, and the name of the one row in it.
const (
	LeaseTable = "ops_worker_lease"
	LeaseName  = "ops_worker"
)

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
	created   = "created"
	granted   = "granted"
	failed    = "failed"
	postponed = "postponed"
	reverted  = "reverted"
)

// Change is one thing that bringing the schema up to date did, or could not do.
type Change struct {
	Object string // the table, view, role or migration
	Action string // created, granted, marked, migrated, reverted, postponed or failed
	Detail string
}

// Failed reports whether the change was wanted and could not be made.
func (c Change) Failed() bool { return c.Action == failed }

// Postponed reports whether the change was left to whoever runs a command for it.
func (c Change) Postponed() bool { return c.Action == postponed }

// MigrationState is one migration and when it was applied; zero if it was not. One
// of a newer worker has no name.
type MigrationState struct {
	Version   int64
	Name      string
	AppliedAt time.Time
}

// Applied reports whether it was applied.
func (s MigrationState) Applied() bool { return !s.AppliedAt.IsZero() }

// Migrator brings the schema up to date. It uses connections of its own, since
// goose holds one while its lock needs another, and the pool may have just one.
type Migrator struct {
	pool        *pgxpool.Pool
	connections *sql.DB
	anyDatabase bool
}

// MigratorOption is an option of NewMigrator.
type MigratorOption func(*Migrator)

// AnyDatabase accepts a database with tables, none of which is the platform's.
func AnyDatabase(m *Migrator) { m.anyDatabase = true }

// NewMigrator prepares the embedded migrations for pool's database.
func NewMigrator(pool *pgxpool.Pool, options ...MigratorOption) *Migrator {
	connecting := []stdlib.OptionOpenDB{stdlib.OptionAfterConnect(writeByDefault)}
	if renew := pool.Config().BeforeConnect; renew != nil { // of a pool that Open made
		connecting = append(connecting, stdlib.OptionBeforeConnect(renew))
	}
	m := &Migrator{pool: pool, connections: stdlib.OpenDB(migrationConfig(pool), connecting...)}
	for _, option := range options {
		option(m)
	}
	return m
}

// Close frees the migrator's connections.
func (m *Migrator) Close() error { return m.connections.Close() }

// provider is goose, for tables in the schema h. Without versions it runs every
// migration, whatever the version table says.
func (m *Migrator) provider(h home, versions bool) (*goose.Provider, error) {
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableName(h.lockTable()),
		lock.WithTableLeaseDuration(lockTTL),
		lock.WithTableHeartbeatInterval(lockHeartbeat),
		lock.WithTableLockTimeout(lockRetry, lockRetries),
		lock.WithTableLogger(slog.New(slog.DiscardHandler)),
		// What the server refuses for good is not asked for two minutes long.
		lock.WithTableRetryPolicy(func(err error) bool { return !IsServerError(err) || isConflict(err) }),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare migration lock: %w", err)
	}
	store, err := database.NewStore(database.DialectPostgres, pgx.Identifier{h.schema, VersionTable}.Sanitize())
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	var source fs.FS = migrations.FS
	if !h.first {
		source = schemaFS{migrations.FS, h.schema}
	}
	options := []goose.ProviderOption{goose.WithLocker(locker), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger())}
	if !versions {
		options = append(options, goose.WithDisableVersioning(true))
	}
	p, err := goose.NewProvider(goose.DialectCustom, m.connections, source, append(options, goose.WithStore(versionStore{store}))...)
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	return p, nil
}

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// lockTable is where replicas that migrate take turns. goose looks for it by the
// name as it is written here, so a schema's name that needs quotes cannot be told.
func (h home) lockTable() string {
	if h.first || !plainName.MatchString(h.schema) {
		return lockTable
	}
	return h.schema + "." + lockTable
}

// versionStore is goose's own, for a table in any schema.
type versionStore struct{ database.Store }

// TableExists reports whether goose has made its table.
func (s versionStore) TableExists(ctx context.Context, conn database.DBTxConn) (exists bool, err error) {
	err = conn.QueryRowContext(ctx, "SELECT to_regclass($1) IS NOT NULL", s.Tablename()).Scan(&exists)
	return exists, err
}

// schemaFS is migrations for tables in one schema, whichever comes first in the
// search path.
type schemaFS struct {
	fs.FS
	schema string
}

var direction = regexp.MustCompile(`(?m)^-- \+goose (Up|Down)$`)

// Open opens a migration that begins by choosing its schema.
func (f schemaFS) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return file, err
	}
	content, err := io.ReadAll(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	choose := "$0\nSET LOCAL search_path = " + strings.ReplaceAll(pgx.Identifier{f.schema}.Sanitize(), "$", "$$") + ";"
	return schemaFile{file, bytes.NewReader(direction.ReplaceAll(content, []byte(choose)))}, nil
}

type schemaFile struct {
	fs.File
	content io.Reader
}

// Read reads the migration.
func (f schemaFile) Read(p []byte) (int, error) { return f.content.Read(p) }

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

// Up applies what is pending, then makes sure of every table of ours and of the
// platform's, and of its role, which it does at every start: they may have
// changed since. It takes no lock on the migrations where nothing is pending. With
// an error, the changes are those that were made before it.
func (m *Migrator) Up(ctx context.Context) ([]Change, error) {
	var h home
	var changes []Change
	var pending bool
	var missing []string
	err := inTx(ctx, m.pool, ReadWrite, atStart.limits, func(tx pgx.Tx) (err error) {
		q := New(tx)
		if err := q.LockSchema(ctx); err != nil {
			return err
		}
		if h, changes, err = settle(ctx, tx, m.anyDatabase); err != nil {
			return err
		}
		states, err := Migrations(ctx, q)
		pending = slices.ContainsFunc(states, func(s MigrationState) bool { return !s.Applied() })
		if err != nil {
			return err
		}
		missing, err = missingOwn(ctx, q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the schema: %w", err)
	}
	if pending {
		missing = nil // they are, but for what is applied and was dropped since
		made, err := m.apply(ctx, h)
		changes = append(changes, made...)
		if err != nil {
			return changes, err
		}
		err = inTx(ctx, m.pool, ReadOnly, atStart.limits, func(tx pgx.Tx) (err error) {
			missing, err = missingOwn(ctx, New(tx))
			return err
		})
		if err != nil {
			return changes, fmt.Errorf("look for the worker's tables: %w", err)
		}
	}
	if len(missing) > 0 {
		made, err := m.makeAgain(ctx, h, missing)
		changes = append(changes, made...)
		if err != nil {
			return changes, err
		}
	}
	made, err := ensurePlatform(ctx, m.pool, atStart, m.anyDatabase)
	return append(changes, made...), err
}

// apply runs the migrations that are pending.
func (m *Migrator) apply(ctx context.Context, h home) ([]Change, error) {
	p, err := m.provider(h, true)
	if err != nil {
		return nil, err
	}
	results, err := p.Up(ctx)
	changes := changesOf(results, err, "migrated")
	if err != nil {
		return changes, fmt.Errorf("apply migrations: %w", err)
	}
	return changes, nil
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

// makeAgain makes anew what was dropped of the worker's own since its migration.
func (m *Migrator) makeAgain(ctx context.Context, h home, missing []string) ([]Change, error) {
	p, err := m.provider(h, false)
	if err != nil {
		return nil, err
	}
	if _, err := p.Up(ctx); err != nil {
		return nil, fmt.Errorf("make %s again: %w", strings.Join(missing, ", "), err)
	}
	changes := make([]Change, len(missing))
	for i, name := range missing {
		changes[i] = Change{name, created, "again: it was dropped"}
	}
	return changes, nil
}

// missingOwn are those of the worker's own relations that do not stand.
func missingOwn(ctx context.Context, q *Queries) ([]string, error) {
	stands, err := StandingRelations(ctx, q)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(OwnRelations(), func(name string) bool {
		_, exists := stands[name]
		return exists
	}), nil
}

// LeaseHeldError keeps migrations from being taken back under a worker that
// collects.
type LeaseHeldError struct{ Holder string }

func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("%s collects into these tables: stop it first, or use --force", e.Holder)
}

// DownOptions say what Down takes back.
type DownOptions struct {
	// All takes back every migration, and the views that stand in for dropped
	// tables; else it is the newest migration.
	All bool
	// Force does so under a worker that collects, too.
	Force bool
}

// Down takes back migrations. It refuses with a LeaseHeldError while a worker
// collects. With an error, the changes are those that were made before it.
func (m *Migrator) Down(ctx context.Context, options DownOptions) (changes []Change, err error) {
	var h home
	var states []MigrationState
	err = inTx(ctx, m.pool, ReadWrite, whileRunning.limits, func(tx pgx.Tx) error {
		q := New(tx)
		if h, err = enterHome(ctx, q); err != nil {
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
		return nil, fmt.Errorf("take back migrations: %w", err)
	}
	if !slices.ContainsFunc(states, MigrationState.Applied) {
		return changes, nil // goose would make its table first
	}
	p, err := m.provider(h, true)
	if err != nil {
		return changes, err
	}
	var results []*goose.MigrationResult
	if options.All {
		results, err = p.DownTo(ctx, 0)
	} else {
		var result *goose.MigrationResult
		if result, err = p.Down(ctx); result != nil {
			results = append(results, result)
		}
	}
	changes = append(changes, changesOf(results, err, reverted)...)
	if err != nil && !errors.Is(err, goose.ErrNoNextVersion) {
		return changes, fmt.Errorf("take back migrations: %w", err)
	}
	return changes, nil
}

func enterHome(ctx context.Context, q *Queries) (home, error) {
	database, err := q.DescribeDatabase(ctx)
	if err != nil {
		return home{}, err
	}
	h, err := findHome(ctx, q, database)
	if err != nil {
		return h, err
	}
	return h, h.enter(ctx, q)
}

func refuseWhileHeld(ctx context.Context, q *Queries) error {
	if stands, err := q.DescribeRelations(ctx, []string{LeaseTable}); err != nil || len(stands) == 0 {
		return err
	}
	lease, err := q.ReadLease(ctx, LeaseName)
	switch {
	case IsNoRows(err):
		return nil
	case err == nil && lease.Held:
		return &LeaseHeldError{lease.Holder}
	}
	return err
}

// Migrations lists every migration in order, and when it was applied. It reads
// only.
func Migrations(ctx context.Context, q *Queries) ([]MigrationState, error) {
	var states []MigrationState
	for _, file := range must(fs.Glob(migrations.FS, "*.sql")) {
		number, _, _ := strings.Cut(file, "_")
		states = append(states, MigrationState{Version: must(strconv.ParseInt(number, 10, 64)), Name: file})
	}
	stands, err := q.DescribeRelations(ctx, []string{VersionTable})
	if err != nil || len(stands) == 0 {
		return states, err
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
	err = InTx(ctx, pool, ReadOnly, whileRunning.limits.Statement, func(q *Queries) error {
		states, err = Migrations(ctx, q)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read schema version: %w", err)
	}
	return states, nil
}

// Ensure makes sure of the schema beside running loops: what was dropped is made
// again, what the platform has replaced gets its view.
func Ensure(ctx context.Context, pool *pgxpool.Pool, options ...MigratorOption) ([]Change, error) {
	m := NewMigrator(pool, options...)
	var missing []string
	err := InTx(ctx, pool, ReadOnly, whileRunning.limits.Statement, func(q *Queries) (err error) {
		missing, err = missingOwn(ctx, q)
		return err
	})
	var changes []Change
	switch {
	case err != nil:
		err = fmt.Errorf("look for the worker's tables: %w", err)
	case len(missing) > 0:
		changes, err = m.Up(ctx)
	default:
		changes, err = ensurePlatform(ctx, pool, whileRunning, m.anyDatabase)
	}
	return changes, errors.Join(err, m.Close())
}

// MigrateUp brings the schema of pool's database up to date and tells what it
// did.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool, options ...MigratorOption) ([]Change, error) {
	m := NewMigrator(pool, options...)
	changes, err := m.Up(ctx)
	return changes, errors.Join(err, m.Close())
}

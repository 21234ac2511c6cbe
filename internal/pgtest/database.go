package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgserver"
	"ops_worker/internal/schema"
)

// template is the migrated database that every other is cloned from. It is made on first use, once for a server.
type template struct {
	once sync.Once
	name string
	err  error
}

// migrationLock is the key of the advisory lock under which templates are made. Roles belong to a whole server, so the
// migrations of two test packages on one external server must not meet.
const migrationLock = 0x6f70735f // "ops_"

// prepare makes the template at its first call, and returns its name.
func (t *template) prepare(ctx context.Context, s *pgserver.Server) (string, error) {
	t.once.Do(func() {
		name := "pgtest_template_" + pgserver.Token()
		// The template outlives the test that happens to be the first.
		if t.err = t.build(context.WithoutCancel(ctx), s, name); t.err == nil {
			t.name = name
		}
	})
	if t.err != nil {
		return "", fmt.Errorf("prepare the template database: %w", t.err)
	}
	return t.name, nil
}

func (t *template) build(ctx context.Context, s *pgserver.Server, name string) error {
	return pgserver.Execute(ctx, s.URL(s.Maintenance()), func(ctx context.Context, conn *pgx.Conn) error {
		// The lock goes with the connection.
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if err := s.Create(ctx, name); err != nil {
			return err
		}
		pool, err := openPool(ctx, s.URL(name))
		if err != nil {
			return err
		}
		_, err = schema.MigrateUp(ctx, pool)
		pool.Close()
		if err != nil {
			return errors.Join(fmt.Errorf("migrate: %w", err), s.Drop(ctx, name))
		}
		// Nobody can be connected to a database while it is cloned; this makes sure that nobody is.
		_, err = conn.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", pgserver.Quote(name)))
		return err
	})
}

// drop removes the template from a server that goes on.
func (t *template) drop(s *pgserver.Server) error {
	t.once.Do(func() { t.err = errors.New("the server is closed") })
	if t.name == "" {
		return nil
	}
	return s.Drop(context.Background(), t.name)
}

// Database is one test's own database, reached as a superuser unless a method says otherwise.
type Database struct {
	Name string
	URL  string

	server *server
}

// New makes a migrated database that is dropped when the test ends. The test is an integration test by that, and is
// skipped in -short mode.
func New(tb testing.TB) *Database {
	tb.Helper()
	return create(tb, true)
}

// NewEmpty is New without the migrations.
func NewEmpty(tb testing.TB) *Database {
	tb.Helper()
	return create(tb, false)
}

func create(tb testing.TB, migrated bool) *Database {
	tb.Helper()
	if testing.Short() {
		tb.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	server, err := shared.get()
	if err != nil {
		tb.Fatal(err)
	}
	name := "test_" + pgserver.Token()
	if err := server.create(tb.Context(), name, migrated); err != nil {
		tb.Fatal(err)
	}
	// The test's own context has ended when clean-up runs.
	tb.Cleanup(func() {
		if err := server.Drop(context.Background(), name); err != nil {
			tb.Error(err)
		}
	})
	return &Database{Name: name, URL: server.URL(name), server: server}
}

// Pool opens a pool that is closed when the test ends.
func (d *Database) Pool(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return d.pool(tb, d.URL)
}

// PoolAs is Pool for the URL that Role or URLAs gave.
func (d *Database) PoolAs(tb testing.TB, address string) *pgxpool.Pool {
	tb.Helper()
	return d.pool(tb, address)
}

func (d *Database) pool(tb testing.TB, address string) *pgxpool.Pool {
	tb.Helper()
	pool, err := openPool(tb.Context(), address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			pool.Close()
		}()
		select {
		case <-closed:
		case <-time.After(pgserver.StepTimeout):
			tb.Error("close pool: a connection was never given back")
		}
	})
	return pool
}

// openPool opens a pool as the worker does: what a test sees holds behind a transaction pooler too.
func openPool(ctx context.Context, address string) (*pgxpool.Pool, error) {
	return db.Open(ctx, db.Options{URL: address, MaxConns: maxConns, ConnectTimeout: pgserver.StepTimeout})
}

// maxConns is of one pool of a test.
const maxConns = 8

// Exec runs SQL as the superuser; without arguments it may be several statements.
func (d *Database) Exec(tb testing.TB, sql string, args ...any) {
	tb.Helper()
	err := pgserver.Execute(tb.Context(), d.URL, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
	if err != nil {
		tb.Fatalf("execute SQL: %v", err)
	}
}

// Role makes a login role with these options, such as "NOSUPERUSER NOBYPASSRLS", and returns its name and its URL of
// this database. When the test ends, the role's sessions, its possessions in this database and the role are removed.
func (d *Database) Role(tb testing.TB, options string) (name, address string) {
	tb.Helper()
	name, password := "role_"+pgserver.Token(), pgserver.Token()
	d.Exec(tb, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' %s", pgserver.Quote(name), password, options))
	tb.Cleanup(func() {
		err := pgserver.Execute(context.Background(), d.URL, func(ctx context.Context, conn *pgx.Conn) error {
			const sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"
			if _, err := conn.Exec(ctx, sessions, name); err != nil {
				return err
			}
			for _, statement := range []string{"DROP OWNED BY %s CASCADE", "DROP ROLE %s"} {
				if _, err := conn.Exec(ctx, fmt.Sprintf(statement, pgserver.Quote(name))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			tb.Errorf("drop role: %v", err)
		}
	})
	return name, d.URLAs(name, password)
}

// URLAs is the URL of this database for another user.
func (d *Database) URLAs(name, password string) string {
	address, err := url.Parse(d.URL)
	if err != nil {
		panic(err) // this package has made it
	}
	address.User = url.UserPassword(name, password)
	return address.String()
}

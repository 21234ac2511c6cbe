package pgtest

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgserver"
	"ops_worker/internal/schema"
	"ops_worker/sql"
)

// template is the migrated database that every other is cloned from. It is made on first use.
type template struct {
	once sync.Once
	name string
	err  error
}

// prepare makes the template at its first call, and returns its name.
func (t *template) prepare(s *pgserver.Server) (string, error) {
	t.once.Do(func() {
		t.name = "template_" + pgserver.Token()
		// It outlives the test that happens to be the first.
		if err := t.build(context.Background(), s); err != nil {
			t.err = fmt.Errorf("prepare the template database: %w", err)
		}
	})
	return t.name, t.err
}

func (t *template) build(ctx context.Context, s *pgserver.Server) error {
	if err := s.Create(ctx, t.name); err != nil {
		return err
	}
	pool, err := openPool(ctx, s.URL(t.name))
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = schema.MigrateUp(ctx, pool, false)
	return err
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
	return d.PoolAs(tb, d.URL)
}

// PoolAs is Pool for the URL that Role or URLAs gave. A connection that is never given back shows as a test that does not
// end.
func (d *Database) PoolAs(tb testing.TB, address string) *pgxpool.Pool {
	tb.Helper()
	pool, err := openPool(tb.Context(), address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

// openPool opens a pool as the worker does: what a test sees holds behind a transaction pooler too.
func openPool(ctx context.Context, address string) (*pgxpool.Pool, error) {
	return db.Open(ctx, db.Options{URL: address, MaxConns: maxConns, ConnectTimeout: pgserver.StepTimeout})
}

// maxConns is of one pool of a test.
const maxConns = 8

// Exec runs SQL as the superuser; without arguments it may be several statements.
func (d *Database) Exec(tb testing.TB, statements string, args ...any) {
	tb.Helper()
	err := pgserver.Execute(tb.Context(), d.URL, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statements, args...)
		return err
	})
	if err != nil {
		tb.Fatalf("execute SQL: %v", err)
	}
}

// NewerTables makes the tables that only newer releases of the platform have, and the worker never makes.
func (d *Database) NewerTables(tb testing.TB) {
	tb.Helper()
	names, err := fs.Glob(sql.Platform, "platform/newer/*.sql")
	if err != nil || len(names) == 0 {
		tb.Fatalf("%d files: %v", len(names), err)
	}
	for _, name := range names {
		table, err := sql.Platform.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		d.Exec(tb, string(table))
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

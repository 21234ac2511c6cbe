package pgtest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5"

	"ops_worker/internal/pgserver"
)

func TestMain(m *testing.M) { Main(m) }

// query returns one value of one row, in a connection of its own.
func query[T any](t *testing.T, address, sql string, args ...any) T {
	t.Helper()
	var value T
	err := pgserver.Execute(t.Context(), address, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sql, args...).Scan(&value)
	})
	if err != nil {
		t.Fatalf("query %q: %v", sql, err)
	}
	return value
}

func TestNewIsMigratedAndIsolated(t *testing.T) {
	t.Parallel()
	first, second := New(t), New(t)
	if first.Name == second.Name {
		t.Fatalf("two databases are both named %s", first.Name)
	}
	first.Exec(t, "CREATE TABLE only_here (n int); INSERT INTO only_here VALUES (1)")
	for _, test := range []struct {
		database *Database
		table    string
		want     bool
	}{
		{first, "service_health", true},
		{second, "service_health", true},
		{first, "only_here", true},
		{second, "only_here", false},
	} {
		if got := query[bool](t, test.database.URL, "SELECT to_regclass($1) IS NOT NULL", test.table); got != test.want {
			t.Errorf("table %s in %s: exists %v, want %v", test.table, test.database.Name, got, test.want)
		}
	}
}

func TestNewEmptyHasNoTables(t *testing.T) {
	t.Parallel()
	database := NewEmpty(t)
	const tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
	if got := query[int](t, database.URL, tables); got != 0 {
		t.Errorf("an empty database has %d relations, want none", got)
	}
}

func TestDatabaseIsDroppedUnderItsConnections(t *testing.T) {
	t.Parallel()
	var name, server string
	t.Run("inner", func(t *testing.T) {
		database := NewEmpty(t)
		name, server = database.Name, database.server.URL("postgres")
		conn, err := pgx.Connect(t.Context(), database.URL)
		if err != nil {
			t.Fatal(err)
		}
		// Registered after the database's own clean-up, and so the connection would be closed before it. It is not
		// closed here: the drop must not mind.
		t.Cleanup(func() {
			if conn.IsClosed() {
				t.Error("the connection was closed early")
			}
		})
		_ = database.Pool(t)
	})
	if name == "" {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	if query[bool](t, server, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name) {
		t.Errorf("database %s is still there", name)
	}
}

func TestPoolUsesNoNamedStatements(t *testing.T) {
	t.Parallel()
	pool := New(t).Pool(t)
	if got := pool.Config().ConnConfig.DefaultQueryExecMode; got != pgx.QueryExecModeExec {
		t.Errorf("query mode %v, want %v", got, pgx.QueryExecModeExec)
	}
	var one int
	if err := pool.QueryRow(t.Context(), "SELECT $1::int", 1).Scan(&one); err != nil || one != 1 {
		t.Errorf("got %d, %v", one, err)
	}
}

func TestRole(t *testing.T) {
	t.Parallel()
	var role, address, server string
	t.Run("inner", func(t *testing.T) {
		database := New(t)
		server = database.server.URL("postgres")
		role, address = database.Role(t, "NOSUPERUSER NOBYPASSRLS")
		database.Exec(t, "GRANT CREATE ON SCHEMA public TO "+pgserver.Quote(role))
		pool := database.PoolAs(t, address)
		if _, err := pool.Exec(t.Context(), "CREATE TABLE possession ()"); err != nil {
			t.Fatalf("create a table as %s: %v", role, err)
		}
		var user string
		var super bool
		const who = "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
		if err := pool.QueryRow(t.Context(), who).Scan(&user, &super); err != nil {
			t.Fatal(err)
		}
		if user != role || super {
			t.Errorf("connected as %s (superuser %v), want %s without", user, super, role)
		}
	})
	if role == "" {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	if query[bool](t, server, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role) {
		t.Errorf("role %s is still there", role)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	database := NewEmpty(t)
	for name, want := range map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300",
	} {
		if got := query[string](t, database.URL, "SELECT current_setting($1)", name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// TestInterrupt sends SIGINT to a test process that has a server running, and looks for what is left of it.
func TestInterrupt(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	if os.Getenv("PGTEST_INTERRUPT") != "" {
		_, _ = os.Stdout.WriteString(New(t).URL + "\n")
		<-t.Context().Done() // which never comes: the process is interrupted
		return
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInterrupt$", "-test.timeout=2m")
	command.Env = append(os.Environ(), "PGTEST_INTERRUPT=1")
	var output bytes.Buffer
	address := make(chan string, 1)
	command.Stdout, command.Stderr = &firstLine{to: address}, &output
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	select {
	case raw := <-address:
		if err := command.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := <-exited; err == nil {
			t.Error("the tests went on")
		}
		base, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		Eventually(t, "the server has ended too", func() bool {
			var dialer net.Dialer
			conn, err := dialer.DialContext(t.Context(), "tcp", base.Host)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	case err := <-exited:
		t.Fatalf("ended before it had a database: %v\n%s", err, &output)
	}
}

// firstLine is a writer that passes on the first line written to it.
type firstLine struct {
	line []byte
	done bool
	to   chan<- string
}

func (w *firstLine) Write(p []byte) (int, error) {
	if !w.done {
		w.line = append(w.line, p...)
		if line, _, found := bytes.Cut(w.line, []byte("\n")); found {
			w.done = true
			w.to <- string(line)
		}
	}
	return len(p), nil
}

func TestRunFailsOnALeak(t *testing.T) {
	if os.Getenv("PGTEST_LEAK") != "" {
		go func() { <-context.Background().Done() }()
		return
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestRunFailsOnALeak$")
	command.Env = append(os.Environ(), "PGTEST_LEAK=1")
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !bytes.Contains(output, []byte("goroutines are left")) {
		t.Errorf("a leak ended with %v:\n%s", err, output)
	}
}

// TestContainer starts a server through testcontainers, where an engine answers.
func TestContainer(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	running, err := startContainer(t.Context())
	if err != nil {
		t.Skipf("not on this machine: %v", err)
	}
	if got := query[string](t, running.URL("postgres"), "SELECT current_database()::text"); got != "postgres" {
		t.Errorf("connected to %q", got)
	}
	for range 2 {
		if err := running.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

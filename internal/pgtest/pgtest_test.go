package pgtest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

// query returns one value of one row, in a connection of its own.
func query[T any](t *testing.T, address, sql string, args ...any) T {
	t.Helper()
	var value T
	err := execute(t.Context(), address, func(ctx context.Context, conn *pgx.Conn) error {
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
		database.Exec(t, "GRANT CREATE ON SCHEMA public TO "+quote(role))
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
	if database.server.Backend() == backendExternal {
		t.Skip("an external server has settings of its own")
	}
	for name, want := range map[string]string{
		"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300",
	} {
		if got := query[string](t, database.URL, "SELECT current_setting($1)", name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// TestBackends starts a server of its own in each way that this machine offers.
func TestBackends(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	for name, start := range map[string]func(context.Context) (*Server, error){
		backendDocker: startDocker, backendBinaries: startBinaries,
	} {
		t.Run(name, func(t *testing.T) {
			server, err := start(t.Context())
			if err != nil {
				t.Skipf("not on this machine: %v", err)
			}
			if server.Backend() != name {
				t.Errorf("backend %q, want %q", server.Backend(), name)
			}
			if err := server.Create(t.Context(), "mine", true); err != nil {
				t.Error(err)
			}
			if got := query[string](t, server.URL("mine"), "SELECT current_database()::text"); got != "mine" {
				t.Errorf("connected to %q", got)
			}
			for range 2 {
				if err := server.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
			var dialer net.Dialer
			if conn, err := dialer.DialContext(t.Context(), "tcp", server.base.Host); err == nil {
				conn.Close()
				t.Error("somebody still listens after Close")
			}
		})
	}
}

func TestExternalServer(t *testing.T) {
	host := NewEmpty(t)
	t.Setenv(envURL, host.URL)
	server, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if server.Backend() != backendExternal {
		t.Errorf("backend %q, want %q", server.Backend(), backendExternal)
	}
	name := "external_" + token()
	if err := server.Create(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	if err := server.Drop(t.Context(), name); err != nil {
		t.Error(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if query[bool](t, host.URL, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", server.template.name) {
		t.Error("Close left the template database behind")
	}
	if err := server.Create(t.Context(), "late", true); err == nil {
		t.Error("a closed external server still made a migrated database")
	}
}

func TestStartErrors(t *testing.T) {
	for name, test := range map[string]struct {
		url, backend string
		want, secret string
	}{
		"unknown backend": {backend: "oracle", want: "want docker or binaries"},
		"no URL":          {url: "host=localhost", want: "postgres://"},
		"unparsable URL":  {url: "postgres://u:hunter2@[::1/x", want: "not a URL", secret: "hunter2"},
		"nobody there":    {url: "postgres://u:hunter2@127.0.0.1:1/x", want: envURL, secret: "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(envURL, test.url)
			t.Setenv(envBackend, test.backend)
			server, err := Start(t.Context())
			if err == nil {
				t.Fatal("started", server.Close())
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not mention %q", err, test.want)
			}
			if test.secret != "" && strings.Contains(err.Error(), test.secret) {
				t.Errorf("error %q gives the password away", err)
			}
		})
	}
}

func TestFindBinaries(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	root := t.TempDir()
	pattern := filepath.Join(root, "*", "bin")
	if got, err := findBinaries(pattern); err == nil || !strings.Contains(err.Error(), pattern) {
		t.Errorf("found %q, %v where nothing is; want an error that names %s", got, err, pattern)
	}
	for _, file := range []string{"9/bin/initdb", "9/bin/postgres", "15/bin/initdb", "15/bin/postgres", "16/bin/initdb"} {
		file = filepath.Join(root, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// 16 has no server, and 9 is older although it sorts last.
	want := filepath.Join(root, "15", "bin")
	if got, err := findBinaries(pattern); err != nil || got != want {
		t.Errorf("found %q, %v, want %q", got, err, want)
	}
}

func TestNothingToStartWith(t *testing.T) {
	err := nothingWorked([]error{errors.New("docker: no engine"), errors.New("binaries: none")})
	for _, want := range []string{"apt-get install postgresql", envURL, "no engine", "binaries: none"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not mention %q", err, want)
		}
	}
}

func TestStartHonoursItsContext(t *testing.T) {
	t.Setenv(envURL, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed our mind")
	cancel(reason)
	server, err := Start(ctx)
	if err == nil {
		t.Fatal("started", server.Close())
	}
	if !errors.Is(err, reason) {
		t.Errorf("error %v, want %v", err, reason)
	}
}

// TestGuard ends a process without a chance to clean up, and expects the guard to do it.
func TestGuard(t *testing.T) {
	if dir := os.Getenv("PGTEST_GUARD_DIR"); dir != "" {
		if _, err := newGuard(nil, `rm -rf "$1"`, dir); err != nil {
			t.Fatal(err)
		}
		os.Exit(0) // no deferred function, no clean-up
	}
	dir := filepath.Join(t.TempDir(), "remains")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuard$")
	command.Env = append(os.Environ(), "PGTEST_GUARD_DIR="+dir)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("run the process: %v\n%s", err, output)
	}
	until(t, "the guard removes the directory", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	})
}

func TestGuardDismissed(t *testing.T) {
	dir := t.TempDir()
	watch, err := newGuard(nil, `rm -rf "$1"`, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.dismiss(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("a dismissed guard cleaned up: %v", err)
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
		var exit *exec.ExitError
		if err := <-exited; !errors.As(err, &exit) || exit.ExitCode() != 130 {
			t.Errorf("ended with %v, want status 130", err)
		}
		base, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if os.Getenv(envURL) != "" {
			return // an external server goes on
		}
		var dialer net.Dialer
		if conn, err := dialer.DialContext(t.Context(), "tcp", base.Host); err == nil {
			conn.Close()
			t.Error("the server survived the interrupt")
		}
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

func TestMajorVersion(t *testing.T) {
	for path, want := range map[string]int{
		"/usr/lib/postgresql/15/bin":  15,
		"/usr/lib/postgresql/9.6/bin": 0,
		"/opt/bin":                    0,
	} {
		if got := majorVersion(path); got != want {
			t.Errorf("majorVersion(%s) = %d, want %d", path, got, want)
		}
	}
}

// until waits for a condition, with a deadline, without guessing how long it takes.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("timed out: %s", what)
		case <-pause.C:
		}
	}
}

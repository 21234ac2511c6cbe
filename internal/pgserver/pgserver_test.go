package pgserver

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notHere is a container engine that does not answer.
func notHere(context.Context) (*Server, error) { return nil, errors.New("no engine") }

// TestBackends starts a server in each way that this machine offers.
func TestBackends(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	for name, start := range map[string]func(context.Context) (*Server, error){Docker: StartDocker, Binaries: StartBinaries} {
		t.Run(name, func(t *testing.T) {
			server, err := start(t.Context())
			if err != nil {
				t.Skipf("not on this machine: %v", err)
			}
			if server.Backend() != name {
				t.Errorf("backend %q, want %q", server.Backend(), name)
			}
			if err := server.Create(t.Context(), "mine"); err != nil {
				t.Error(err)
			}
			t.Setenv(EnvURL, server.URL("mine"))
			external, err := Start(t.Context(), notHere)
			if err != nil || external.Backend() != External {
				t.Fatalf("%v, %v", external, err)
			}
			var got string
			err = Execute(t.Context(), external.URL("mine"), func(ctx context.Context, conn *pgx.Conn) error {
				return conn.QueryRow(ctx, "SELECT current_database()::text").Scan(&got)
			})
			if err != nil || got != "mine" {
				t.Errorf("connected to %q, %v", got, err)
			}
			if err := errors.Join(external.Close(), external.Drop(t.Context(), "other")); err != nil {
				t.Errorf("an external server does not go on: %v", err)
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

func TestStartErrors(t *testing.T) {
	for name, test := range map[string]struct {
		url, backend string
		want, secret string
	}{
		"unknown backend": {backend: "oracle", want: "want docker or binaries"},
		"no URL":          {url: "host=localhost", want: "postgres://"},
		"unparsable URL":  {url: "postgres://u:hunter2@[::1/x", want: "not a URL", secret: "hunter2"},
		"nobody there":    {url: "postgres://u:hunter2@127.0.0.1:1/x", want: EnvURL, secret: "hunter2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(EnvURL, test.url)
			t.Setenv(envBackend, test.backend)
			server, err := Start(t.Context(), notHere)
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
	for _, want := range []string{"apt-get install postgresql", EnvURL, "no engine", "binaries: none"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not mention %q", err, want)
		}
	}
}

func TestStartHonoursItsContext(t *testing.T) {
	t.Setenv(EnvURL, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed our mind")
	cancel(reason)
	server, err := Start(ctx, notHere)
	if err == nil {
		t.Fatal("started", server.Close())
	}
	if !errors.Is(err, reason) {
		t.Errorf("error %v, want %v", err, reason)
	}
}

// TestGuard ends a process without a chance to clean up, and expects the guard to do it.
func TestGuard(t *testing.T) {
	if dir := os.Getenv("PGSERVER_GUARD_DIR"); dir != "" {
		if _, err := NewGuard(nil, `rm -rf "$1"`, dir); err != nil {
			t.Fatal(err)
		}
		os.Exit(0) // no deferred function, no clean-up
	}
	dir := filepath.Join(t.TempDir(), "remains")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestGuard$")
	command.Env = append(os.Environ(), "PGSERVER_GUARD_DIR="+dir)
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
	watch, err := NewGuard(nil, `rm -rf "$1"`, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Dismiss(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("a dismissed guard cleaned up: %v", err)
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

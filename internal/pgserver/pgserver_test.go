package pgserver

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestServers starts a server in each way that this machine offers.
func TestServers(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	for name, start := range map[string]func(context.Context) (*Server, error){"container": startDocker, "binaries": StartBinaries, "either": Start} {
		t.Run(name, func(t *testing.T) {
			server, err := start(t.Context())
			if err != nil {
				t.Skipf("not on this machine: %v", err)
			}
			if err := server.Create(t.Context(), "mine"); err != nil {
				t.Error(err)
			}
			var got string
			err = Execute(t.Context(), server.URL("mine"), func(ctx context.Context, conn *pgx.Conn) error {
				return conn.QueryRow(ctx, "SELECT current_database()::text").Scan(&got)
			})
			if err != nil || got != "mine" {
				t.Errorf("connected to %q, %v", got, err)
			}
			for range 2 {
				if err := server.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
			var dialer net.Dialer
			if conn, err := dialer.DialContext(t.Context(), "tcp", server.Address()); err == nil {
				conn.Close()
				t.Error("somebody still listens after Close")
			}
		})
	}
}

func TestFindBinaries(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	root := t.TempDir()
	pattern := filepath.Join(root, "*", "bin")
	if got, err := findBinaries(pattern); !errors.Is(err, ErrNoBinaries) {
		t.Errorf("found %q, %v where nothing is", got, err)
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

// TestGuard ends a process without a chance to clean up, and expects the guard to do it.
func TestGuard(t *testing.T) {
	if dir := os.Getenv("PGSERVER_GUARD_DIR"); dir != "" {
		if _, err := NewGuard(`rm -rf "$1"`, dir); err != nil {
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
	watch, err := NewGuard(`rm -rf "$1"`, dir)
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

package pgtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"ops_worker/internal/pgserver"
)

// PgBouncer is a pooler of a test's own, on a loopback port.
type PgBouncer struct {
	URL string // of the database behind it

	program, file, address string
	credential             *syscall.Credential
	command                *exec.Cmd
	input                  io.Closer
}

// NewPgBouncer starts a PgBouncer before a database and stops it when the test ends. Mode is its pool_mode; settings are
// further lines of its configuration. The test is skipped where PgBouncer is not installed.
func NewPgBouncer(tb testing.TB, database, mode, settings string) *PgBouncer {
	tb.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		// Debian puts it where only root's PATH leads.
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			tb.Skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
		}
	}
	target, err := url.Parse(database)
	if err != nil {
		tb.Fatal(err)
	}
	password, _ := target.User.Password()
	p := &PgBouncer{program: program}
	if p.address, err = pgserver.FreeAddress(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		tb.Fatal(err)
	}
	// PgBouncer refuses to run as root, and another user cannot read the test's own directory.
	if p.credential, err = pgserver.Unprivileged(); err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	if p.credential != nil {
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	p.file = filepath.Join(dir, "pgbouncer.ini")
	ini := fmt.Sprintf("[databases]\n* = host=%s port=%s user=%s password=%s\n"+
		"[pgbouncer]\nlisten_addr = %s\nlisten_port = %s\nunix_socket_dir =\nauth_type = any\npool_mode = %s\n%s\n",
		target.Hostname(), target.Port(), target.User.Username(), password, host, port, mode, settings)
	if err := os.WriteFile(p.file, []byte(ini), 0o644); err != nil {
		tb.Fatal(err)
	}
	target.Host = p.address
	p.URL = target.String()
	p.Start(tb)
	tb.Cleanup(p.Stop)
	return p
}

// Start runs a stopped PgBouncer again, at the same address, and returns when it listens.
func (p *PgBouncer) Start(tb testing.TB) {
	tb.Helper()
	// The shell ends PgBouncer when its input does: with the test, or with this process, however that ends.
	p.command = exec.CommandContext(context.WithoutCancel(tb.Context()), "/bin/sh", "-c", `"$0" -q "$1" & read -r _; kill -INT $!; wait $!`, p.program, p.file)
	p.command.SysProcAttr = &syscall.SysProcAttr{Credential: p.credential}
	p.command.Dir = "/"
	input, err := p.command.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	p.input = input
	if err := p.command.Start(); err != nil {
		tb.Fatal(err)
	}
	Eventually(tb, "PgBouncer listens", func() bool {
		conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", p.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// Stop ends PgBouncer, and with it every connection through it. It may be called several times.
func (p *PgBouncer) Stop() {
	if p.command == nil {
		return
	}
	p.input.Close()
	_ = p.command.Wait() // killed
	p.command = nil
}

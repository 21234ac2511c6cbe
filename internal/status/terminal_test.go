package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"ops_worker/internal/logtest"
	"ops_worker/internal/pgtest"
)

// pty is a terminal and who sits before it.
type pty struct {
	master, terminal *os.File
	shown            logtest.Log
}

func newPTY(t *testing.T) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{master: master, terminal: terminal}
	p.resize(t, 100, 30)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			if n > 0 {
				_, _ = p.shown.Write(buffer[:n]) // never fails
			}
			if err != nil {
				return // its other side is closed
			}
		}
	}()
	t.Cleanup(func() {
		terminal.Close()
		<-read
		master.Close()
	})
	return p
}

func (p *pty) resize(t *testing.T, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(p.terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		t.Fatal(err)
	}
}

func (p *pty) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (p *pty) await(t *testing.T, text string) {
	t.Helper()
	pgtest.Eventually(t, "the terminal shows "+text, func() bool { return strings.Contains(p.shown.String(), text) })
}

func TestWatchOnATerminal(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *pty, context.CancelFunc){
		"q":             func(t *testing.T, p *pty, _ context.CancelFunc) { p.press(t, "q") },
		"Esc":           func(t *testing.T, p *pty, _ context.CancelFunc) { p.press(t, "\x1b") },
		"Ctrl-C":        func(t *testing.T, p *pty, _ context.CancelFunc) { p.press(t, "\x03") },
		"after a key":   func(t *testing.T, p *pty, _ context.CancelFunc) { p.press(t, "\x1b[Bq") },
		"a signal":      func(_ *testing.T, _ *pty, cancel context.CancelFunc) { cancel() },
		"while reading": func(t *testing.T, p *pty, _ context.CancelFunc) { p.press(t, "q") },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPTY(t)
			before, err := term.GetState(int(p.terminal.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			reading := func(ctx context.Context) (Report, error) {
				if name == "while reading" {
					<-ctx.Done()
					return Report{}, ctx.Err()
				}
				return reportOf(stages["well"]), nil
			}
			done := make(chan error, 1)
			go func() {
				done <- Watch(ctx, reading, Terminal{In: p.terminal, Out: p.terminal, Colour: true}, time.Hour)
			}()
			if name == "while reading" {
				p.await(t, "reading…")
			} else {
				p.await(t, "ops-worker status")
				p.await(t, "\x1b[32mhealthy\x1b[0m")
			}
			// The process's own signal, since this terminal is not the one it belongs to.
			p.resize(t, 60, 10)
			if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
				t.Fatal(err)
			}
			if name != "while reading" {
				p.await(t, "scroll: 0 lines above")
			}
			end(t, p, cancel)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			p.await(t, leaveScreen)
			if !strings.HasPrefix(p.shown.String(), enterScreen) {
				t.Errorf("it begins with %q", p.shown.String()[:20])
			}
			after, err := term.GetState(int(p.terminal.Fd()))
			if err != nil || *after != *before {
				t.Errorf("the terminal is left as %v (%v), not as %v", after, err, before)
			}
		})
	}
}

func TestWatchEndsWithItsTerminal(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	wake, waker, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(reader.Close(), wake.Close(), waker.Close()) }()
	writer.Close()
	readKeys(int(reader.Fd()), int(wake.Fd()), func(key string) bool {
		t.Errorf("a key: %q", key)
		return true
	})
}

func TestWatchNeedsATerminal(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := Watch(t.Context(), nil, Terminal{In: file, Out: file}, time.Second); err == nil {
		t.Error("a file is taken for a terminal")
	}
}

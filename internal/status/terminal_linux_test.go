package status

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"ops_worker/internal/ptytest"
)

func TestWatchOnATerminal(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *ptytest.Terminal, context.CancelFunc){
		"q":             func(t *testing.T, p *ptytest.Terminal, _ context.CancelFunc) { p.Press(t, "q") },
		"Esc":           func(t *testing.T, p *ptytest.Terminal, _ context.CancelFunc) { p.Press(t, "\x1b") },
		"Ctrl-C":        func(t *testing.T, p *ptytest.Terminal, _ context.CancelFunc) { p.Press(t, "\x03") },
		"after a key":   func(t *testing.T, p *ptytest.Terminal, _ context.CancelFunc) { p.Press(t, "\x1b[Bq") },
		"a signal":      func(_ *testing.T, _ *ptytest.Terminal, cancel context.CancelFunc) { cancel() },
		"while reading": func(t *testing.T, p *ptytest.Terminal, _ context.CancelFunc) { p.Press(t, "q") },
	} {
		t.Run(name, func(t *testing.T) {
			p := ptytest.New(t)
			before, err := term.GetState(int(p.File.Fd()))
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
				done <- Watch(ctx, reading, Terminal{In: p.File, Out: p.File, Colour: true}, time.Hour)
			}()
			if name == "while reading" {
				p.Await(t, "reading…")
			} else {
				p.Await(t, "ops-worker status")
				p.Await(t, "\x1b[32mhealthy\x1b[0m")
			}
			// The process's own signal, since this terminal is not the one it belongs to.
			p.Resize(t, 60, 10)
			if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
				t.Fatal(err)
			}
			if name != "while reading" {
				p.Await(t, "scroll: 0 lines above")
			}
			end(t, p, cancel)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			p.Await(t, leaveScreen)
			if !strings.HasPrefix(p.Shown(), enterScreen) {
				t.Errorf("it begins with %q", p.Shown()[:20])
			}
			after, err := term.GetState(int(p.File.Fd()))
			if err != nil || *after != *before {
				t.Errorf("the terminal is left as %v (%v), not as %v", after, err, before)
			}
		})
	}
}

// Nothing is erased behind a line that fills its row, nor below the last row.
func TestDraw(t *testing.T) {
	if got, want := draw([]string{"abc", "de"}, 3), "\x1b[?2026h\x1b[H\x1b[2Kabc\r\n\x1b[2Kde\r\n\x1b[J\x1b[?2026l"; got != want {
		t.Errorf("draw = %q, want %q", got, want)
	}
	if got, want := draw([]string{"abc"}, 1), "\x1b[?2026h\x1b[H\x1b[2Kabc\x1b[?2026l"; got != want {
		t.Errorf("draw = %q, want %q", got, want)
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

package status

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"ops_worker/internal/ptytest"
)

// What lets a terminal show its second screen, and the first one again.
const (
	enterScreen = "\x1b[?1049h"
	leaveScreen = "\x1b[?1049l"
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
				p.Await(t, "\x1b[32mhealthy\x1b[m")
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
			if enter, drawn := strings.Index(p.Shown(), enterScreen), strings.Index(p.Shown(), "ops-worker status"); enter < 0 || drawn >= 0 && drawn < enter {
				t.Errorf("it draws before it has taken the second screen: %q", p.Shown())
			}
			after, err := term.GetState(int(p.File.Fd()))
			if err != nil || *after != *before {
				t.Errorf("the terminal is left as %v (%v), not as %v", after, err, before)
			}
		})
	}
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

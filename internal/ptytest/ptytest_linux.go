// Package ptytest gives tests a terminal, and the keyboard and the eyes before it.
package ptytest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ops_worker/internal/logtest"
)

// patience is how long Await waits: on a loaded machine, seconds are nothing.
const patience = time.Minute

// Terminal is a pseudo-terminal.
type Terminal struct {
	// File is what a program reads and draws on.
	File *os.File

	master *os.File
	shown  logtest.Log
}

// New opens a terminal that is closed when the test ends. The test is skipped where
// there are none.
func New(tb testing.TB) *Terminal {
	tb.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		tb.Skipf("no pseudo-terminals: %v", err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		tb.Fatal(err)
	}
	file, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	t := &Terminal{File: file, master: master}
	t.Resize(tb, 100, 40)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			_, _ = t.shown.Write(buffer[:n]) // never fails
			if err != nil {
				return // nobody has the other side open
			}
		}
	}()
	tb.Cleanup(func() {
		file.Close()
		<-read
		master.Close()
	})
	return t
}

// Resize gives the terminal another size. A program learns of it by SIGWINCH, which
// the kernel sends only to those whose terminal it is.
func (t *Terminal) Resize(tb testing.TB, columns, rows uint16) {
	tb.Helper()
	if err := unix.IoctlSetWinsize(int(t.File.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		tb.Fatal(err)
	}
}

// Redrawn waits until a program's whole screen shows what it is to show. A program
// writes what has changed alone, so each look gives the terminal another size.
func (t *Terminal) Redrawn(tb testing.TB, process *os.Process, what string, holds func(screen string) bool) {
	tb.Helper()
	const erased = "\x1b[2J"
	every := time.NewTicker(250 * time.Millisecond)
	defer every.Stop()
	var columns uint16 = 100
	for deadline := time.Now().Add(patience); ; <-every.C {
		columns ^= 1
		t.Resize(tb, columns, 40)
		if err := process.Signal(syscall.SIGWINCH); err != nil {
			tb.Fatal(err)
		}
		shown := t.Shown()
		if i := strings.LastIndex(shown, erased); i >= 0 && holds(shown[i:]) {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: the terminal shows %s; it shows\n%q", patience, what, shown[max(0, strings.LastIndex(shown, erased)):])
		}
	}
}

// Press presses keys.
func (t *Terminal) Press(tb testing.TB, keys string) {
	tb.Helper()
	if _, err := t.master.WriteString(keys); err != nil {
		tb.Fatal(err)
	}
}

// Shown is all that was written to the terminal.
func (t *Terminal) Shown() string { return t.shown.String() }

// Await waits until all of these have been shown.
func (t *Terminal) Await(tb testing.TB, texts ...string) {
	tb.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(patience)
	for _, text := range texts {
		for !strings.Contains(t.Shown(), text) {
			if time.Now().After(deadline) {
				tb.Fatalf("not within %s: the terminal shows %q; it shows\n%q", patience, text, t.Shown())
			}
			<-ticker.C
		}
	}
}

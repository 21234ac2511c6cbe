package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Terminal is where --watch draws.
type Terminal struct {
	In, Out *os.File
	Colour  bool
}

// What is written to the terminal: the second screen, so that what stood there
// comes back afterwards, without a cursor; and a drawing that is shown as a whole,
// where the terminal can.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	beginDraw   = "\x1b[?2026h\x1b[H"
	eraseLine   = "\x1b[2K"
	eraseBelow  = "\x1b[J"
	endDraw     = "\x1b[?2026l"
)

// draw is what to write for a view. Each line is erased before it is written: after
// it, the cursor may stand on the last of its characters.
func draw(view []string, height int) string {
	text := beginDraw + eraseLine + strings.Join(view, "\r\n"+eraseLine)
	if len(view) < height {
		text += "\r\n" + eraseBelow
	}
	return text + endDraw
}

// Watch draws a reading every so often, until q, Esc or Ctrl-C is pressed or the
// context ends. What it draws with is its own: the libraries for it added a
// megabyte to the memory of `run`, which draws nothing.
func Watch(ctx context.Context, reading func(context.Context) (Report, error), t Terminal, every time.Duration) (err error) {
	wake, waker, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	state, err := term.MakeRaw(int(t.In.Fd()))
	if err != nil {
		return errors.Join(fmt.Errorf("take over the terminal: %w", err), wake.Close(), waker.Close())
	}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		waker.Close()
		running.Wait()
		wake.Close()
		_, writeErr := t.Out.WriteString(leaveScreen)
		err = errors.Join(err, writeErr, term.Restore(int(t.In.Fd()), state))
	}()
	if _, err := t.Out.WriteString(enterScreen); err != nil {
		return fmt.Errorf("draw: %w", err)
	}

	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	keys := make(chan string)
	running.Go(func() {
		defer close(keys)
		readKeys(int(t.In.Fd()), int(wake.Fd()), func(key string) bool {
			select {
			case keys <- key:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	readings := make(chan readingEvent, 1)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()

	s := screen{colour: t.Colour, every: every}
	var event any = t.size(s)
	for {
		var next action
		if s, next = s.update(event); next == quit {
			return nil
		}
		if s.began.IsZero() { // the first at once
			s, next = s.update(tickEvent(time.Now()))
		}
		if next == read {
			running.Go(func() {
				report, err := reading(ctx)
				readings <- readingEvent{report, err, time.Now()}
			})
		}
		if _, err := t.Out.WriteString(draw(s.view(), s.height)); err != nil {
			return fmt.Errorf("draw: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			event = tickEvent(now)
		case <-resized:
			event = t.size(s)
		case r := <-readings:
			event = r
		case key, ok := <-keys:
			if !ok { // the terminal is gone
				return nil
			}
			event = keyEvent(key)
		}
	}
}

// size asks the terminal, which may not know.
func (t Terminal) size(s screen) resizeEvent {
	width, height, err := term.GetSize(int(t.Out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = max(s.width, 80), max(s.height, 24)
	}
	return resizeEvent{width, height}
}

// escapeWait is how long the rest of a key's sequence may take after its Esc.
const escapeWait = 50 * time.Millisecond

// readKeys hands on what is pressed until the terminal is gone, press returns
// false, or wake is closed on its other side.
func readKeys(in, wake int, press func(string) bool) {
	var buffer [64]byte
	for {
		if readable(in, wake, -1) != in {
			return
		}
		n, err := unix.Read(in, buffer[:])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		text := string(buffer[:n])
		if text == keyEscape && readable(in, wake, escapeWait) == in {
			if n, err := unix.Read(in, buffer[:]); err == nil && n > 0 {
				text += string(buffer[:n])
			}
		}
		for text != "" {
			key := firstKey(text)
			text = text[len(key):]
			if !press(key) {
				return
			}
		}
	}
}

// readable waits for one of two descriptors, and returns which; -1 where the time
// was over, which is none where it is negative.
func readable(in, wake int, timeout time.Duration) int {
	for {
		var set unix.FdSet
		set.Set(in)
		set.Set(wake)
		var limit *unix.Timeval
		if timeout >= 0 {
			value := unix.NsecToTimeval(timeout.Nanoseconds())
			limit = &value
		}
		n, err := unix.Select(max(in, wake)+1, &set, nil, nil, limit)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			return -1
		case set.IsSet(wake):
			return wake
		default:
			return in
		}
	}
}

// firstKey is the first of the keys that a text stands for: a character, or an Esc
// with the sequence that it begins.
func firstKey(text string) string {
	if !strings.HasPrefix(text, "\x1b[") && !strings.HasPrefix(text, "\x1bO") {
		return text[:1]
	}
	for i := 2; i < len(text); i++ {
		if text[i] >= '@' && text[i] <= '~' { // the final byte
			return text[:i+1]
		}
	}
	return text
}

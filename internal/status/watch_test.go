package status

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// started is a screen that has asked for its first reading.
func started(t *testing.T, width, height int) screen {
	t.Helper()
	s := screen{every: 5 * time.Second}
	s, _ = s.update(resizeEvent{width, height})
	s, next := s.update(tickEvent(now))
	if next != read {
		t.Fatal("the first tick reads nothing")
	}
	return s
}

func (s screen) on(t *testing.T, want action, event any) screen {
	t.Helper()
	s, got := s.update(event)
	if got != want {
		t.Fatalf("%#v: action %d, want %d", event, got, want)
	}
	view := s.view()
	if len(view) > s.height {
		t.Fatalf("%d lines on a screen of %d:\n%s", len(view), s.height, strings.Join(view, "\n"))
	}
	for _, l := range view {
		if columns(l) > s.width {
			t.Fatalf("%d columns on a screen of %d: %q", columns(l), s.width, l)
		}
	}
	return s
}

func (s screen) shows(t *testing.T, want ...string) {
	t.Helper()
	view := strings.Join(s.view(), "\n")
	for _, text := range want {
		if !strings.Contains(view, text) {
			t.Errorf("%q is not in\n%s", text, view)
		}
	}
}

func TestWatchReadsEverySoOftenAndNeverTwiceAtOnce(t *testing.T) {
	t.Parallel()
	s := started(t, 80, 40)
	s.shows(t, "reading…", "q quits")
	s = s.on(t, wait, tickEvent(now.Add(time.Minute))) // still reading
	s = s.on(t, wait, readingEvent{report: reportOf(stages["well"]), at: now.Add(time.Minute)})
	s.shows(t, "evaluator  healthy", "LAST HOUR")
	s = s.on(t, read, tickEvent(now.Add(61*time.Second))) // long due
	s = s.on(t, wait, readingEvent{report: reportOf(stages["well"]), at: now.Add(61 * time.Second)})
	s = s.on(t, wait, tickEvent(now.Add(65*time.Second)))
	s.on(t, read, tickEvent(now.Add(66*time.Second)))
}

func TestWatchKeepsTheLastReadingInAnOutage(t *testing.T) {
	t.Parallel()
	s := started(t, 80, 40)
	s = s.on(t, wait, readingEvent{err: errors.New("connection refused: db:5432/iotcloud as iot"), at: now})
	s.shows(t, "nothing has been read yet, tried again every 5s", "connection refused", "q quits")

	s = s.on(t, read, tickEvent(now.Add(5*time.Second)))
	s = s.on(t, wait, readingEvent{report: reportOf(stages["well"]), at: now.Add(5 * time.Second)})
	if view := strings.Join(s.view(), "\n"); strings.Contains(view, "db:5432") || strings.Contains(view, "tried again") {
		t.Errorf("what is over is still shown:\n%s", view)
	}

	s = s.on(t, read, tickEvent(now.Add(10*time.Second)))
	s = s.on(t, wait, readingEvent{err: errors.New("no answer within 5s: db:5432/iotcloud as iot"), at: now.Add(15 * time.Second)})
	s.shows(t, "this is the reading of 10s ago, tried again every 5s", "no answer within 5s", "evaluator  healthy")
	s = s.on(t, read, tickEvent(now.Add(30*time.Second)))
	s.shows(t, "this is the reading of 25s ago", "no answer within 5s", "evaluator  healthy") // while it tries again

	s = s.on(t, wait, readingEvent{report: reportOf(stages["standby"]), at: now.Add(31 * time.Second)})
	s.shows(t, "hot standby")
	if view := strings.Join(s.view(), "\n"); strings.Contains(view, "no answer") {
		t.Errorf("what is over is still shown:\n%s", view)
	}
}

func TestWatchQuits(t *testing.T) {
	t.Parallel()
	s := started(t, 80, 40)
	for _, key := range []string{"q", "Q", "esc", "ctrl+c"} {
		s.on(t, quit, keyEvent(key))
	}
	for _, key := range []string{"x", "right", "f1", "j"} {
		s.on(t, wait, keyEvent(key))
	}
}

func TestWatchFitsAnyTerminalAndScrolls(t *testing.T) {
	t.Parallel()
	s := started(t, 80, 12)
	s = s.on(t, wait, readingEvent{report: reportOf(stages["hostile"]), at: now})
	for height := 1; height < 60; height++ {
		for _, width := range []int{1, 20, 80, 200} {
			s.on(t, wait, resizeEvent{width, height})
		}
	}
	s = s.on(t, wait, readingEvent{report: reportOf(stages["well"]), at: now})
	s.shows(t, "ops-worker status", "↑↓ scroll: 0 lines above, 14 below")
	s = s.on(t, wait, keyEvent("down"))
	s.shows(t, "scroll: 1 lines above, 13 below")
	for range 5 {
		s = s.on(t, wait, keyEvent("pgdown"))
	}
	s.shows(t, "report     rendered", "scroll: 14 lines above, 0 below")
	s = s.on(t, wait, keyEvent("up"))
	s.shows(t, "scroll: 13 lines above, 1 below")
	s = s.on(t, wait, resizeEvent{140, 50}) // all of it has room
	s.shows(t, "ops-worker status", "report     rendered")
	if s.top != 0 {
		t.Errorf("top = %d", s.top)
	}
	wide := columns(strings.Join(s.view(), "\n"))
	if narrow := columns(strings.Join(s.on(t, wait, resizeEvent{80, 50}).view(), "\n")); narrow >= wide {
		t.Errorf("%d characters at 80 columns, %d at 140", narrow, wide)
	}
}

package status

import (
	"fmt"
	"strings"
	"time"

	"ops_worker/internal/humanize"
)

// screen is what --watch shows, and what it does next: a value that events change,
// so that it can be tested without a terminal.
type screen struct {
	width, height int
	colour        bool
	every         time.Duration
	top           int // the first line of the report that is shown

	report  *Report   // the newest, nil before the first
	readAt  time.Time // when it came, by this process's monotonic clock
	err     error     // of the newest reading, nil where it went well
	began   time.Time // when the newest reading began
	reading bool
	now     time.Time
}

// The events. A tick comes once a second.
type (
	tickEvent    time.Time
	resizeEvent  struct{ width, height int }
	keyEvent     string // the name of what was pressed
	readingEvent struct {
		report Report
		err    error
		at     time.Time
	}
)

// action is what an event makes necessary.
type action int

const (
	wait action = iota
	read
	quit
)

// update takes one event.
func (s screen) update(event any) (screen, action) {
	switch e := event.(type) {
	case resizeEvent:
		s.width, s.height = e.width, e.height
	case tickEvent:
		s.now = time.Time(e)
		// One that hangs is waited for: it ends by itself.
		if !s.reading && (s.began.IsZero() || s.now.Sub(s.began) >= s.every) {
			s.reading, s.began = true, s.now
			return s, read
		}
	case readingEvent:
		s.reading, s.now, s.err = false, e.at, e.err
		if e.err == nil {
			s.report, s.readAt = &e.report, e.at
		}
	case keyEvent:
		page := max(1, s.height-4)
		switch string(e) {
		case "q", "Q", "ctrl+c", "esc":
			return s, quit
		case "k", "up":
			s.top--
		case "j", "down":
			s.top++
		case "b", "pgup":
			s.top -= page
		case "space", "f", "pgdown":
			s.top += page
		}
	}
	s.top = max(0, min(s.top, len(s.body())-s.room()))
	return s, wait
}

// head is what stands above the report: whether it is the newest there is.
func (s screen) head() []line {
	if s.err == nil {
		return nil
	}
	shown := "nothing has been read yet"
	if s.report != nil {
		shown = fmt.Sprintf("this is the reading of %s ago", ago(s.now.Sub(s.readAt)))
	}
	return []line{{{"! " + shown + ", tried again every " + humanize.Age(s.every), alarm}}, {{"! " + s.err.Error(), alarm}}}
}

func (s screen) body() []line {
	switch {
	case s.report != nil:
		return s.report.lines(s.width)
	case s.err == nil:
		return []line{{{text: "reading…"}}}
	}
	return nil
}

// room is how many lines of the report are shown at once.
func (s screen) room() int { return max(1, s.height-len(s.head())-1) }

// view is the screen, a line each, none longer than it is wide.
func (s screen) view() []string {
	body := s.body()
	top := max(0, min(s.top, len(body)-s.room()))
	end := min(len(body), top+s.room())
	foot := fmt.Sprintf("every %s  q quits", humanize.Age(s.every))
	if below := len(body) - end; below > 0 || top > 0 {
		foot += fmt.Sprintf("  ↑↓ scroll: %d lines above, %d below", top, below)
	}
	lines := append(s.head(), body[top:end]...)
	lines = append(lines, line{{foot, faint}})
	if len(lines) > s.height {
		lines = lines[:max(1, s.height)]
	}
	return strings.Split(strings.TrimSuffix(text(lines, s.width, s.colour, "\n"), "\n"), "\n")
}

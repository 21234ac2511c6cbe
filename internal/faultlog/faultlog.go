// Package faultlog is how faults reach the log: a condition when it changes, a
// panic with its stack, a text from elsewhere without what could spoil a line.
package faultlog

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/humanize"
)

// reminderInterval is how often a fault that lasts is logged again, and how long
// it must be quiet to be over.
const reminderInterval = time.Minute

// Log logs a fault when it begins, once a minute with a count while it lasts or
// comes and goes, and when it has been quiet for a minute. The zero value is
// well.
type Log struct {
	since  time.Time // of the first fault, zero while all is well
	newest time.Time // of the newest one
	logged time.Time
	faults int
}

// Observe takes the newest outcome; bad and well are the log messages.
func (l *Log) Observe(log zerolog.Logger, err error, bad, well string) {
	now := time.Now()
	if err == nil {
		if !l.since.IsZero() && now.Sub(l.newest) >= reminderInterval {
			log.Info().Dur("lasted_ms", l.newest.Sub(l.since)).Int("faults", l.faults).Msg(well)
			*l = Log{}
		}
		return
	}
	first := l.since.IsZero()
	if first {
		l.since = now
	}
	l.newest = now
	l.faults++
	if !first && now.Sub(l.logged) < reminderInterval {
		return
	}
	l.logged = now
	event := log.Error().Err(err)
	if !first {
		event = event.Dur("lasted_ms", now.Sub(l.since)).Int("faults", l.faults)
	}
	event.Msg(bad)
}

// ErrorText is an error in one line that says nothing twice: a connection that
// fails has a line for each address, and for each of them one with TLS and one
// without.
func ErrorText(err error) string {
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if part := strings.TrimSpace(line); part != "" && !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	text := strings.Join(parts, "; ")
	return strings.ReplaceAll(text, ":; ", ": ")
}

// Recovered is deferred by every goroutine of a cycle: a panic that nobody
// recovers ends the process, and every loop with it. It logs the panic with its
// stack and hands it to fail as an error.
func Recovered(ctx context.Context, fail func(error)) {
	if r := recover(); r != nil {
		text := PlainText(fmt.Sprint(r))
		zerolog.Ctx(ctx).Error().Str("panic", text).Str("stack", string(debug.Stack())).Msg("panic")
		fail(fmt.Errorf("panic: %s", text))
	}
}

const maxTextLength = 200

// PlainText makes a text fit for a table and a log line: one printable line of at most
// 200 bytes and an ellipsis.
func PlainText(text string) string {
	text = humanize.OneLine(text)
	if len(text) > maxTextLength {
		text = strings.ToValidUTF8(text[:maxTextLength], "") + "…"
	}
	return text
}

package main

import (
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/rs/zerolog/diode"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

// nameFields sets zerolog's names, which are the process's and not a logger's.
var nameFields = sync.OnceFunc(func() {
	zerolog.TimestampFieldName = "ts"
	zerolog.MessageFieldName = "msg"
	zerolog.TimeFieldFormat = time.RFC3339Nano
	// The words of the platform's logs, which are Python's.
	zerolog.LevelDebugValue, zerolog.LevelInfoValue, zerolog.LevelWarnValue = "DEBUG", "INFO", "WARNING"
	zerolog.LevelErrorValue, zerolog.LevelFatalValue = "ERROR", "CRITICAL"
	zerolog.DurationFieldInteger = true // milliseconds, which every such name says
	zerolog.ErrorMarshalFunc = func(err error) any {
		if err == nil {
			return nil // no field at all
		}
		return faultlog.ErrorText(err)
	}
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
})

// newLogger logs as the platform's other services do: one JSON object a line
// with ts, level, service, msg and, within a cycle, trace_id.
func newLogger(cfg config.Config, out io.Writer) zerolog.Logger {
	nameFields()
	return zerolog.New(out).Level(zerolog.Level(cfg.LogLevel)).With().Timestamp().Str("service", cfg.ServiceName).Logger()
}

// formatted writes a log's lines to out in LOG_FORMAT: for people on a terminal, unless
// that says otherwise.
func formatted(cfg config.Config, out io.Writer) io.Writer {
	if cfg.LogFormat == "console" || cfg.LogFormat == "" && isTerminal(out) {
		return zerolog.ConsoleWriter{Out: out, TimeFormat: "15:04:05.000", NoColor: !isTerminal(out)}
	}
	return out
}

// newQueuedLogger logs for a process that must not wait for whoever reads its log: a line
// that finds the queue full is dropped, and counted. The queue is looked at seldom, since
// each look costs a wake-up. End writes what is queued.
func newQueuedLogger(cfg config.Config, out io.Writer) (log zerolog.Logger, end func()) {
	out = onlyWriter{formatted(cfg, out)}
	direct := newLogger(cfg, out)
	queue := diode.NewWriter(out, 1000, 200*time.Millisecond, func(missed int) {
		direct.Warn().Int("lines", missed).Msg("log lines dropped, they were not read in time")
	})
	return newLogger(cfg, queue), func() { _ = queue.Close() }
}

// onlyWriter hides a file's Close from the queue.
type onlyWriter struct{ io.Writer }

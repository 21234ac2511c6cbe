package main

import (
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

// nameFields sets zerolog's names, which are the process's and not a logger's.
var nameFields = sync.OnceFunc(func() {
	zerolog.TimestampFieldName = "ts"
	zerolog.MessageFieldName = "msg"
	zerolog.TimeFieldFormat = time.RFC3339Nano
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
// with ts, level, service, msg and, within a cycle, trace_id. On a terminal,
// unless LOG_FORMAT says otherwise, it writes for people.
func newLogger(cfg config.Config, out io.Writer) zerolog.Logger {
	nameFields()
	format := cfg.LogFormat
	if format == "" && isTerminal(out) {
		format = "console"
	}
	if format == "console" {
		out = zerolog.ConsoleWriter{Out: out, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(out).Level(zerolog.Level(cfg.LogLevel)).With().Timestamp().Str("service", cfg.ServiceName).Logger()
}

// Package logtest lets a test read what was logged.
package logtest

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
)

// Log is a logger whose lines a test can read, also while others write to it.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Logger writes to l.
func (l *Log) Logger() zerolog.Logger { return zerolog.New(l) }

// Lines returns the lines whose message is msg.
func (l *Log) Lines(tb testing.TB, msg string) []map[string]any {
	tb.Helper()
	var found []map[string]any
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			tb.Fatalf("log line %q is not JSON: %v", line, err)
		}
		if fields[zerolog.MessageFieldName] == msg {
			found = append(found, fields)
		}
	}
	return found
}

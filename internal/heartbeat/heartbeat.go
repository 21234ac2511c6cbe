// Package heartbeat lets one process see that another's loops still turn,
// without a port: the loops leave the time of their last turn in a small file.
//
// Times are of the machine's monotonic clock, which all its processes and
// containers share, so that a wall clock that jumps neither fails a health
// check nor hides a dead loop.
package heartbeat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// missed is how many intervals a loop may stand still.
const missed = 3

// slack is added to that, for a machine under load.
const slack = 2 * time.Second

// turn is the file's entry of one loop.
type turn struct {
	At       time.Duration `json:"at_ns"` // on the monotonic clock
	Interval time.Duration `json:"interval_ns"`
}

// Heart writes the turns of one process's loops.
type Heart struct {
	path string
	now  func() time.Duration

	mu      sync.Mutex
	turns   map[string]turn
	written time.Duration
}

// path of a service's file: two services may share a directory.
func path(dir, service string) string {
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator || r == 0 {
			return '_'
		}
		return r
	}, service)
	return filepath.Join(dir, name+".heartbeat.json")
}

// New makes the directory and starts with no loops.
func New(dir, service string) (*Heart, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make STATE_DIR: %w", err)
	}
	h := &Heart{path: path(dir, service), now: monotonic, turns: map[string]turn{}}
	if err := h.write(); err != nil {
		return nil, fmt.Errorf("write into STATE_DIR: %w", err)
	}
	return h, nil
}

// writeInterval spares the disk where loops turn faster than a check looks.
const writeInterval = 500 * time.Millisecond

// Beat notes that a loop turns now and will again within interval.
func (h *Heart) Beat(loop string, interval time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, known := h.turns[loop]
	now := h.now()
	h.turns[loop] = turn{At: now, Interval: interval}
	if known && before.Interval == interval && now-h.written < writeInterval {
		return nil
	}
	return h.write()
}

// Forget takes loops out that have ended and owe no further turn.
func (h *Heart) Forget(loops ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, loop := range loops {
		delete(h.turns, loop)
	}
	return h.write()
}

// Close removes the file.
func (h *Heart) Close() error { return os.Remove(h.path) }

// write replaces the file in one step, so that a check reads all or nothing.
func (h *Heart) write() error {
	content, err := json.Marshal(h.turns)
	if err != nil {
		return err
	}
	temporary := h.path + ".new"
	err = os.WriteFile(temporary, content, 0o644)
	if errors.Is(err, fs.ErrNotExist) { // the directory was removed
		if err = os.MkdirAll(filepath.Dir(h.path), 0o755); err == nil {
			err = os.WriteFile(temporary, content, 0o644)
		}
	}
	if err != nil {
		return err
	}
	h.written = h.now()
	return os.Rename(temporary, h.path)
}

// Check reports, as an error, a process that is not there or loops that have
// stood still for three of their intervals.
func Check(dir, service string) error { return check(path(dir, service), monotonic()) }

func check(path string, now time.Duration) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no worker runs here: there is no %s", path)
	}
	if err != nil {
		return err
	}
	var turns map[string]turn
	if err := json.Unmarshal(content, &turns); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(turns) == 0 {
		return errors.New("no loop has turned yet")
	}
	var still []string
	for loop, t := range turns {
		// A turn in the future is one from before a reboot.
		if age := now - t.At; age < 0 || age > missed*t.Interval+slack {
			still = append(still, fmt.Sprintf("%s (interval %s, last turn %s ago)", loop, t.Interval, age.Round(time.Second)))
		}
	}
	if len(still) > 0 {
		slices.Sort(still)
		return fmt.Errorf("standing still: %s", strings.Join(still, ", "))
	}
	return nil
}

func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

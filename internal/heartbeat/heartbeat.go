// Package heartbeat lets one process see that another's loops still turn,
// without a port: the loops leave the time of their last turn in a small file.
//
// Times are of the machine's monotonic clock, which all its processes and
// containers share, so that a wall clock that jumps neither fails a health
// check nor hides a dead loop.
package heartbeat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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

// pulse is what the file holds.
type pulse struct {
	// PID and Started, which no two processes share, tell whose file it is.
	PID     int             `json:"pid"`
	Started string          `json:"started"`
	Loops   map[string]turn `json:"loops"`
}

// Heart writes the turns of one process's loops.
type Heart struct {
	dir, service string
	now          func() time.Duration

	mu      sync.Mutex
	pulse   pulse
	written time.Duration
}

// fileName is of a service's file: two services may share a directory.
func fileName(service string) string {
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator || r == 0 {
			return '_'
		}
		return r
	}, service)
	return name + ".heartbeat.json"
}

// place is the directory of the files. Nobody else may write there: a link that
// another user leaves would have us overwrite a file of ours. In a directory of
// root's, such as a volume that is mounted for us, it is one of our own below.
func place(dir string) (string, error) {
	mine, owner, err := ours(dir)
	switch {
	case err != nil:
		return "", err
	case mine:
		return dir, nil
	case owner != 0:
		return "", fmt.Errorf("%s belongs to another user", dir)
	}
	return filepath.Join(dir, fmt.Sprintf("ops-worker-%d", os.Geteuid())), nil
}

// ours reports whether a directory is this user's, and else whose it is.
func ours(dir string) (mine bool, owner uint32, err error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return false, 0, err
	}
	if !info.IsDir() { // a link is none
		return false, 0, fmt.Errorf("%s is no directory", dir)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true, 0, nil
	}
	return stat.Uid == uint32(os.Geteuid()), stat.Uid, nil
}

// prepare makes the directory, and makes sure of it.
func prepare(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	inner, err := place(dir)
	if err != nil {
		return "", err
	}
	if inner != dir {
		if err := os.MkdirAll(inner, 0o700); err != nil {
			return "", err
		}
		if mine, _, err := ours(inner); err != nil || !mine {
			return "", errors.Join(err, fmt.Errorf("%s belongs to another user", inner))
		}
	}
	info, err := os.Lstat(inner)
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		err = os.Chmod(inner, 0o700)
	}
	return inner, err
}

// New starts with no loops. With an error, which names STATE_DIR, the heart beats
// on and tries to write each time: a worker without a health check is better than
// none.
func New(dir, service string) (*Heart, error) {
	h := &Heart{dir: dir, service: service, now: monotonic,
		pulse: pulse{PID: os.Getpid(), Started: started(os.Getpid()), Loops: map[string]turn{}}}
	if err := h.write(); err != nil {
		return h, fmt.Errorf("STATE_DIR: %w", err)
	}
	return h, nil
}

// writeInterval spares the disk where loops turn faster than a check looks.
const writeInterval = 500 * time.Millisecond

// Beat notes that a loop turns now and will again within interval.
func (h *Heart) Beat(loop string, interval time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, known := h.pulse.Loops[loop]
	now := h.now()
	h.pulse.Loops[loop] = turn{At: now, Interval: interval}
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
		delete(h.pulse.Loops, loop)
	}
	return h.write()
}

// Close removes the file.
func (h *Heart) Close() error {
	dir, err := place(h.dir)
	if err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, fileName(h.service)))
}

// write replaces the file in one step, so that a check reads all or nothing. A
// directory that was removed is made again.
func (h *Heart) write() error {
	content, err := json.Marshal(h.pulse)
	if err != nil {
		return err
	}
	dir, err := prepare(h.dir)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, fileName(h.service))
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // O_EXCL follows no link
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	h.written = h.now()
	return os.Rename(temporary, path)
}

// started tells a process from an earlier one of the same number: when it was
// started, as the system has it. It is empty where there is no such process.
func started(pid int) string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The second field is the program's name in brackets, which may hold blanks.
	_, rest, _ := strings.Cut(string(content[bytes.LastIndexByte(content, ')')+1:]), " ")
	const startTime = 22 - 3 // of the fields from the third on
	if fields := strings.Fields(rest); len(fields) > startTime {
		return fields[startTime]
	}
	return ""
}

// Check reports, as an error, a process that is not there or loops that have
// stood still for three of their intervals.
func Check(dir, service string) error {
	inner, err := place(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no worker runs here: there is no %s", dir)
	}
	if err != nil {
		return fmt.Errorf("STATE_DIR: %w", err)
	}
	return check(filepath.Join(inner, fileName(service)), monotonic())
}

func check(path string, now time.Duration) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no worker runs here: there is no %s", path)
	}
	if err != nil {
		return err
	}
	var p pulse
	if err := json.Unmarshal(content, &p); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	// Where the system does not tell of itself, it tells of nobody.
	if p.Started != "" && started(os.Getpid()) != "" && started(p.PID) != p.Started {
		return fmt.Errorf("no worker runs here: process %d, which wrote %s, is gone", p.PID, path)
	}
	if len(p.Loops) == 0 {
		return errors.New("no loop has turned yet")
	}
	var still []string
	for loop, t := range p.Loops {
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

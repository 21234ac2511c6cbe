// Package heartbeat knows whether a worker's loops turn. The worker writes it to a
// file of its own every two seconds, which `ops-worker healthcheck` reads.
package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

const (
	missed        = 3               // so many intervals a loop may stand still,
	slack         = 2 * time.Second // and so much longer on a machine under load
	writeInterval = 2 * time.Second
	goneAfter     = 10 * time.Second // a worker that writes nothing for so long is gone
	turning       = "the loops turn"
)

// Heart keeps the last turn of each of a worker's loops.
type Heart struct {
	dir, file string
	mu        sync.Mutex
	loops     map[string]turn
}

type turn struct {
	at       time.Time
	interval time.Duration
}

// New makes the heart of a worker, which several on one machine may have in one
// directory.
func New(dir, service string) *Heart {
	host, _ := os.Hostname()
	return &Heart{dir: dir, file: fmt.Sprintf("%s%s-%d", prefix(service), host, os.Getpid()), loops: map[string]turn{}}
}

// prefix begins the names of a service's files: SERVICE@HOST-PID.
func prefix(service string) string {
	return strings.NewReplacer("/", "_", "@", "_").Replace(service) + "@"
}

// Beat notes that a loop turns now, and will again within interval.
func (h *Heart) Beat(loop string, interval time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loops[loop] = turn{time.Now(), interval}
}

// Forget takes out loops that have ended.
func (h *Heart) Forget(loops ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, loop := range loops {
		delete(h.loops, loop)
	}
}

// Check fails with the loops that stand still.
func (h *Heart) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.loops) == 0 {
		return errors.New("no loop has turned yet")
	}
	var still []string
	for loop, t := range h.loops {
		if age := time.Since(t.at); age > missed*t.interval+slack {
			still = append(still, fmt.Sprintf("%s (interval %s, last turn %s ago)", loop, t.interval, age.Round(time.Second)))
		}
	}
	if slices.Sort(still); len(still) > 0 {
		return errors.New("standing still: " + strings.Join(still, ", "))
	}
	return nil
}

// Run writes the file until ctx is done, and then removes it. No loop waits for it: a
// disk that hangs fails the health check alone.
func (h *Heart) Run(ctx context.Context, log zerolog.Logger) {
	var faults faultlog.Log
	for ctx.Err() == nil {
		faults.Observe(log, h.write(), "heartbeat not written, healthcheck will fail", "heartbeat is written again")
		backoff.Wait(ctx, writeInterval)
	}
	_ = os.Remove(filepath.Join(h.dir, h.file)) // which may not be there
}

// write replaces the file in one step, so that a check reads all of it.
func (h *Heart) write() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("STATE_DIR: %w", err)
		}
	}()
	content := turning
	if err := h.Check(); err != nil {
		content = err.Error()
	}
	if err = os.MkdirAll(h.dir, 0o700); err == nil {
		err = checkOwner(h.dir)
	}
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(h.dir, "new-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), filepath.Join(h.dir, h.file))
}

// checkOwner refuses a directory that another user, or a link, may have put there.
func checkOwner(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || ok && stat.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("%s is no directory of this user's; name a directory in it, which is made", dir)
	}
	return nil
}

// Check fails unless a worker of the service writes to the directory, and the loops of
// each one that does turn.
func Check(dir, service string) error {
	entries, err := os.ReadDir(dir)
	if err == nil {
		err = checkOwner(dir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("STATE_DIR: %w", err)
	}
	found := false
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !strings.HasPrefix(entry.Name(), prefix(service)) || time.Since(info.ModTime()).Abs() > goneAfter {
			continue // it was removed, is another service's, or the worker was killed
		}
		found = true
		if content, err := os.ReadFile(filepath.Join(dir, entry.Name())); err == nil && string(content) != turning {
			return errors.New(string(content))
		}
	}
	if !found {
		return fmt.Errorf("no worker runs here: none has written to %s for %s", dir, goneAfter)
	}
	return nil
}

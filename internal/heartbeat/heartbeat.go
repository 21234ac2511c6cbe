// Package heartbeat tells `ops-worker healthcheck` whether the loops turn, by a small file
// that each worker writes to STATE_DIR again and again.
package heartbeat

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/pace"
)

const (
	slack         = 2 * time.Second // for a machine under load
	writeInterval = 2 * time.Second
	goneAfter     = 10 * time.Second // a worker that writes nothing for so long is gone
)

// Heart knows until when each of a worker's loops has to turn again.
type Heart struct{ loops sync.Map } // string to time.Time

// Beat notes that a loop turns now, and will again within interval.
func (h *Heart) Beat(loop string, interval time.Duration) {
	h.loops.Store(loop, time.Now().Add(pace.Overdue(interval)+slack))
}

// Forget takes out loops that have ended.
func (h *Heart) Forget(loops ...string) {
	for _, loop := range loops {
		h.loops.Delete(loop)
	}
}

// Check fails with a loop that stands still.
func (h *Heart) Check() error {
	err := errors.New("no loop has turned yet")
	for loop, deadline := range h.loops.Range {
		if late := time.Since(deadline.(time.Time)); late > 0 {
			return fmt.Errorf("loop %s stands still, late by %s", loop, late.Round(time.Second))
		}
		err = nil
	}
	return err
}

// Run writes the worker's file until ctx is done, and then removes it. No loop waits for
// it: a disk that hangs fails the health check alone.
func (h *Heart) Run(ctx context.Context, dir, service string, log zerolog.Logger) {
	host, _ := os.Hostname()
	file := filepath.Join(dir, fmt.Sprintf("%s@%s-%d.beat", url.QueryEscape(service), host, os.Getpid()))
	var faults faultlog.Log
	for ctx.Err() == nil {
		faults.Observe(log, h.write(file), "heartbeat not written to STATE_DIR, healthcheck will fail", "heartbeat is written again")
		backoff.Wait(ctx, writeInterval)
	}
	_ = os.Remove(file) // which may not be there
}

// write replaces the file in one step: why the check fails, or nothing.
func (h *Heart) write(file string) error {
	var reason string
	if err := h.Check(); err != nil {
		reason = err.Error()
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := checkOwner(filepath.Dir(file)); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", []byte(reason), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// checkOwner refuses a directory that another user, or a link, may have put there.
func checkOwner(dir string) error {
	info, err := os.Lstat(dir)
	if err == nil && (!info.IsDir() || info.Mode().Perm()&0o022 != 0 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid())) {
		err = fmt.Errorf("%s is no directory of this user's alone; name a directory in it, which is made", dir)
	}
	return err
}

// Check fails unless a worker of the service writes to dir, and the loops of each turn.
func Check(dir, service string) error {
	if err := checkOwner(dir); err != nil {
		return fmt.Errorf("no worker runs here: STATE_DIR: %w", err)
	}
	state := os.DirFS(dir)
	files, _ := fs.Glob(state, url.QueryEscape(service)+"@*.beat")
	err := fmt.Errorf("no worker runs here: none has written to %s for %s", dir, goneAfter)
	for _, file := range files {
		reason, readErr := fs.ReadFile(state, file)
		info, statErr := fs.Stat(state, file)
		if readErr != nil || statErr != nil || time.Since(info.ModTime()).Abs() > goneAfter {
			continue // it was removed just now, or its worker was killed
		}
		if len(reason) > 0 {
			return errors.New(string(reason))
		}
		err = nil
	}
	return err
}

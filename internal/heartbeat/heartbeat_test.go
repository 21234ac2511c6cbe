package heartbeat

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ops_worker/internal/logtest"
)

// wantError compares an error with a part of its text; empty wants none.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestALoopMayStandStillForThreeIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Heart
		wantError(t, h.Check(), "no loop has turned yet")
		h.Beat("metrics", 5*time.Second)
		h.Beat("health", time.Minute)
		time.Sleep(3*5*time.Second + slack)
		wantError(t, h.Check(), "")
		time.Sleep(time.Second)
		wantError(t, h.Check(), "loop metrics stands still, late by 1s")
		h.Forget("metrics") // it has ended, and owes no turn
		wantError(t, h.Check(), "")
	})
}

// beating is a heart whose one loop has missed its deadline by so much.
func beating(late time.Duration) *Heart {
	var h Heart
	h.loops.Store("metrics", time.Now().Add(-late))
	return &h
}

func write(t *testing.T, h *Heart, file string) {
	t.Helper()
	if err := h.write(file); err != nil {
		t.Fatal(err)
	}
}

func TestTheHealthCheckReadsWhatTheWorkerWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	file := filepath.Join(dir, "ops_worker@host-1.beat")
	wantError(t, Check(dir, "ops_worker"), "no worker runs here")
	write(t, new(Heart), file)
	wantError(t, Check(dir, "ops_worker"), "no loop has turned yet")
	write(t, beating(-time.Minute), file)
	wantError(t, Check(dir, "ops_worker"), "")
	write(t, beating(time.Minute), file)
	wantError(t, Check(dir, "ops_worker"), "loop metrics stands still")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Several workers in one directory do not disturb each other: each is checked, one of
// another service is not, and one that was killed counts for nothing.
func TestSeveralWorkersInOneDirectory(t *testing.T) {
	dir := t.TempDir()
	still := filepath.Join(dir, "ops%2F..%2Fworker@b-1.beat")
	write(t, beating(-time.Minute), filepath.Join(dir, "ops%2F..%2Fworker@a-1.beat"))
	write(t, beating(time.Minute), still)
	write(t, beating(time.Minute), filepath.Join(dir, "ops@c-1.beat"))
	wantError(t, Check(dir, "ops/../worker"), "loop metrics stands still")
	killed := time.Now().Add(-goneAfter - time.Second)
	if err := os.Chtimes(still, killed, killed); err != nil {
		t.Fatal(err)
	}
	wantError(t, Check(dir, "ops/../worker"), "")
	wantError(t, Check(dir, "worker"), "no worker runs here")
}

func TestTheFileGoesWithTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		dir := t.TempDir()
		go beating(-time.Hour).Run(ctx, dir, "ops/worker", new(logtest.Log).Logger())
		synctest.Wait()
		if entries, _ := os.ReadDir(dir); len(entries) != 1 || !strings.HasPrefix(entries[0].Name(), "ops%2Fworker@") {
			t.Errorf("files: %v", entries)
		}
		stop()
		synctest.Wait()
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Errorf("files: %v", entries)
		}
	})
}

// A directory that cannot be written, or was removed, is tried again.
func TestADirectoryThatIsMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the way
			t.Fatal(err)
		}
		var log logtest.Log
		go beating(-time.Hour).Run(ctx, dir, "ops_worker", log.Logger())
		time.Sleep(10*writeInterval + writeInterval/2) // between two writes
		if lines := log.Lines(t, "heartbeat not written to STATE_DIR, healthcheck will fail"); len(lines) != 1 {
			t.Errorf("lines: %v", lines)
		}
		for range 2 {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * writeInterval)
			if entries, err := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("files: %v, %v", entries, err)
			}
		}
	})
}

func TestADirectoryOfAnotherUserIsRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	refused := func(dir string) {
		t.Helper()
		wantError(t, new(Heart).write(filepath.Join(dir, "ops_worker@host-1.beat")), "is no directory of this user's")
		wantError(t, Check(dir, "ops_worker"), "is no directory of this user's")
	}
	refused(link)
	if os.Geteuid() != 0 {
		return // only root can give a directory away
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	refused(dir)
}

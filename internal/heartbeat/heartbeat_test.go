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
		h := New(t.TempDir(), "ops_worker")
		wantError(t, h.Check(), "no loop has turned yet")
		h.Beat("metrics", 5*time.Second)
		h.Beat("health", time.Minute)
		time.Sleep(3*5*time.Second + slack)
		wantError(t, h.Check(), "")
		time.Sleep(time.Second)
		err := h.Check()
		wantError(t, err, "standing still: metrics (interval 5s, last turn 18s ago)")
		if strings.Contains(err.Error(), "health") {
			t.Errorf("a loop that turns: %v", err)
		}
		h.Forget("metrics") // it has ended, and owes no turn
		wantError(t, h.Check(), "")
	})
}

func write(t *testing.T, h *Heart) {
	t.Helper()
	if err := h.write(); err != nil {
		t.Fatal(err)
	}
}

func TestTheHealthCheckReadsWhatTheWorkerWrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	wantError(t, Check(dir, "ops_worker"), "no worker runs here")
	h := New(dir, "ops_worker")
	write(t, h)
	wantError(t, Check(dir, "ops_worker"), "no loop has turned yet")
	h.Beat("metrics", 5*time.Second)
	write(t, h)
	wantError(t, Check(dir, "ops_worker"), "")
	h.loops["metrics"] = turn{time.Now().Add(-time.Minute), 5 * time.Second}
	write(t, h)
	wantError(t, Check(dir, "ops_worker"), "standing still: metrics")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Several workers in one directory do not disturb each other: each is checked, one of
// another service is not, and one that was killed counts for nothing.
func TestSeveralWorkersInOneDirectory(t *testing.T) {
	dir := t.TempDir()
	worker := func(service, file string, last time.Duration) *Heart {
		h := New(dir, service)
		h.file = prefix(service) + file
		h.loops["metrics"] = turn{time.Now().Add(-last), 5 * time.Second}
		write(t, h)
		return h
	}
	worker("ops/../worker", "a-1", 0)
	still := worker("ops/../worker", "b-1", time.Minute)
	worker("ops", "c-1", time.Minute)
	wantError(t, Check(dir, "ops/../worker"), "standing still: metrics")
	killed := time.Now().Add(-goneAfter - time.Second)
	if err := os.Chtimes(filepath.Join(dir, still.file), killed, killed); err != nil {
		t.Fatal(err)
	}
	wantError(t, Check(dir, "ops/../worker"), "")
	wantError(t, Check(dir, "worker"), "no worker runs here")
}

func TestTheFileGoesWithTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		dir := t.TempDir()
		h := New(dir, "ops_worker")
		h.Beat("metrics", time.Hour)
		go h.Run(ctx, new(logtest.Log).Logger())
		synctest.Wait()
		if entries, _ := os.ReadDir(dir); len(entries) != 1 || entries[0].Name() != h.file {
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
		h := New(dir, "ops_worker")
		go h.Run(ctx, log.Logger())
		time.Sleep(10*writeInterval + writeInterval/2) // between two writes
		if lines := log.Lines(t, "heartbeat not written, healthcheck will fail"); len(lines) != 1 || !strings.Contains(lines[0]["error"].(string), "STATE_DIR") {
			t.Errorf("lines: %v", lines)
		}
		for range 2 {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * writeInterval)
			if _, err := os.Stat(filepath.Join(dir, h.file)); err != nil {
				t.Error(err)
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
		wantError(t, New(dir, "ops_worker").write(), "is no directory of this user's")
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

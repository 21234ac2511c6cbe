package heartbeat

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// start is a heart whose clock the test sets.
func start(t *testing.T) (h *Heart, now *time.Duration) {
	t.Helper()
	h, err := New(filepath.Join(t.TempDir(), "made"), "ops_worker")
	if err != nil {
		t.Fatal(err)
	}
	clock := 1000 * time.Hour
	now = &clock
	h.now = func() time.Duration { return *now }
	return h, now
}

// file is where the heart writes.
func (h *Heart) file() string { return filepath.Join(h.dir, fileName(h.service)) }

func beat(t *testing.T, h *Heart, loop string, interval time.Duration) {
	t.Helper()
	if err := h.Beat(loop, interval); err != nil {
		t.Fatal(err)
	}
}

func TestCheckAllowsThreeIntervals(t *testing.T) {
	h, now := start(t)
	beat(t, h, "metrics", 5*time.Second)
	beat(t, h, "health", time.Minute)
	*now += 3*5*time.Second + slack
	if err := check(h.file(), *now); err != nil {
		t.Errorf("after three intervals: %v", err)
	}
	*now += time.Millisecond
	err := check(h.file(), *now)
	if err == nil || !strings.Contains(err.Error(), "metrics (interval 5s") || strings.Contains(err.Error(), "health") {
		t.Errorf("after more than three intervals of one loop: %v", err)
	}
}

func TestALoopThatTurnsDoesNotHideOneThatStandsStill(t *testing.T) {
	h, now := start(t)
	beat(t, h, "health", 5*time.Second)
	for range 10 {
		*now += 5 * time.Second
		beat(t, h, "metrics", 5*time.Second)
	}
	if err := check(h.file(), *now); err == nil || !strings.Contains(err.Error(), "health") {
		t.Errorf("check: %v", err)
	}
}

func TestAForgottenLoopOwesNoTurn(t *testing.T) {
	h, now := start(t)
	beat(t, h, "lease", time.Hour)
	beat(t, h, "metrics", 5*time.Second)
	if err := h.Forget("metrics"); err != nil {
		t.Fatal(err)
	}
	*now += time.Minute
	if err := check(h.file(), *now); err != nil {
		t.Errorf("check: %v", err)
	}
}

func TestTurnsFromBeforeARebootCountForNothing(t *testing.T) {
	h, now := start(t)
	beat(t, h, "metrics", 5*time.Second)
	if err := check(h.file(), *now-time.Hour); err == nil {
		t.Error("a turn in the future should fail")
	}
}

func TestCheckWithoutAWorker(t *testing.T) {
	dir := t.TempDir()
	if err := Check(dir, "ops_worker"); err == nil || !strings.Contains(err.Error(), "no worker runs here") {
		t.Errorf("no file: %v", err)
	}
	h, err := New(dir, "a/../b")
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(h.file()) != dir {
		t.Errorf("a service's name leads out of the directory: %s", h.file())
	}
	if err := Check(dir, "a/../b"); err == nil || err.Error() != "no loop has turned yet" {
		t.Errorf("no loop: %v", err)
	}
	if err := os.WriteFile(h.file(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir, "a/../b"); err == nil {
		t.Error("a broken file should fail")
	}
}

func TestTheFileGoesWithTheProcess(t *testing.T) {
	dir := t.TempDir()
	h, err := New(dir, "ops_worker")
	if err != nil {
		t.Fatal(err)
	}
	beat(t, h, "metrics", 5*time.Second)
	if err := Check(dir, "ops_worker"); err != nil {
		t.Errorf("on the real clock: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir, "ops_worker"); err == nil {
		t.Error("check should fail after Close")
	}
}

func TestADirectoryThatIsRemovedIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	heart, err := New(dir, "ops_worker")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := heart.Beat("metrics", time.Minute); err != nil {
		t.Error(err)
	}
	if err := Check(dir, "ops_worker"); err != nil {
		t.Error(err)
	}
}

// pulseOf is the file that another process would have written.
func pulseOf(t *testing.T, path string, pid int, started string) {
	t.Helper()
	content, err := json.Marshal(pulse{pid, started, map[string]turn{"start": {monotonic(), 5 * time.Minute}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A worker that was killed while it waited for its database is not well for a
// quarter of an hour.
func TestAProcessThatIsGoneIsNotWell(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName("ops_worker"))
	pulseOf(t, path, os.Getpid(), started(os.Getpid()))
	if err := Check(dir, "ops_worker"); err != nil {
		t.Errorf("of this process: %v", err)
	}
	pulseOf(t, path, os.Getpid(), "1") // the number is another process's now
	if err := Check(dir, "ops_worker"); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("of an earlier process: %v", err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	pulseOf(t, path, gone.Process.Pid, "1")
	if err := Check(dir, "ops_worker"); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("of a dead process: %v", err)
	}
}

func TestADirectoryThatCannotBeWrittenIsTriedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the way
		t.Fatal(err)
	}
	h, err := New(dir, "ops_worker")
	if err == nil || !strings.Contains(err.Error(), "STATE_DIR") {
		t.Errorf("new: %v", err)
	}
	if err := Check(dir, "ops_worker"); err == nil {
		t.Error("the check succeeds without a file")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	beat(t, h, "metrics", time.Minute)
	if err := Check(dir, "ops_worker"); err != nil {
		t.Errorf("after it was mended: %v", err)
	}
}

// What another user may have left leads no write of ours anywhere.
func TestLinksAreNotFollowed(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(elsewhere, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fileName("ops_worker"), fileName("ops_worker") + ".new"} {
		if err := os.Symlink(elsewhere, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := New(dir, "ops_worker")
	if err != nil {
		t.Fatal(err)
	}
	beat(t, h, "metrics", time.Minute)
	if content, err := os.ReadFile(elsewhere); err != nil || string(content) != "precious" {
		t.Errorf("%q, %v", content, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := New(link, "ops_worker"); err == nil || !strings.Contains(err.Error(), "is no directory") {
		t.Errorf("a directory that is a link: %v", err)
	}
}

func TestTheDirectoryIsOursAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir, "ops_worker"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if os.Geteuid() != 0 {
		return // only root can give a directory away
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir, "ops_worker"); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("another user's: %v", err)
	}
}

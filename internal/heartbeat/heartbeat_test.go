package heartbeat

import (
	"os"
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
	if err := check(h.path, *now); err != nil {
		t.Errorf("after three intervals: %v", err)
	}
	*now += time.Millisecond
	err := check(h.path, *now)
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
	if err := check(h.path, *now); err == nil || !strings.Contains(err.Error(), "health") {
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
	if err := check(h.path, *now); err != nil {
		t.Errorf("check: %v", err)
	}
}

func TestTurnsFromBeforeARebootCountForNothing(t *testing.T) {
	h, now := start(t)
	beat(t, h, "metrics", 5*time.Second)
	if err := check(h.path, *now-time.Hour); err == nil {
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
	if filepath.Dir(h.path) != dir {
		t.Errorf("a service's name leads out of the directory: %s", h.path)
	}
	if err := Check(dir, "a/../b"); err == nil || err.Error() != "no loop has turned yet" {
		t.Errorf("no loop: %v", err)
	}
	if err := os.WriteFile(h.path, []byte("{"), 0o600); err != nil {
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

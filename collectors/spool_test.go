package collectors

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func openSpool(t *testing.T, dir string, limit int) (*Spool, Leftover) {
	t.Helper()
	spool, left, err := OpenSpool(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	return spool, left
}

func push(t *testing.T, b Buffer, cycles ...Cycle) {
	t.Helper()
	for _, c := range cycles {
		if _, err := b.Push(c); err != nil {
			t.Fatal(err)
		}
	}
}

func cyclesFrom(begin time.Time, n int) []Cycle {
	cycles := make([]Cycle, n)
	for i := range cycles {
		cycles[i] = cycleAt(begin.Add(time.Duration(i)*time.Second), float64(i), 0.1, 1e300)
	}
	return cycles
}

func TestSpooledCyclesOutliveTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	cycles := cyclesFrom(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC), 5)
	spool, _ := openSpool(t, dir, 100)
	push(t, spool, cycles...)
	spool.Close() // as kill -9 would

	spool, left := openSpool(t, dir, 100)
	if diff := cmp.Diff(cycles, spool.Oldest(1000)); diff != "" || left != (Leftover{Cycles: 5}) {
		t.Errorf("%+v: %s", left, diff)
	}
	if !spool.Newest().Equal(cycles[4].At) {
		t.Errorf("newest: %s", spool.Newest())
	}
}

func TestSpoolDropsATornTail(t *testing.T) {
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	push(t, spool, cyclesFrom(time.Now(), 3)...)
	spool.Close()
	path := filepath.Join(dir, "cycles.log")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-3); err != nil {
		t.Fatal(err)
	}
	if _, left := openSpool(t, dir, 100); left.Cycles != 2 || left.TornBytes == 0 {
		t.Errorf("%+v", left)
	}
}

func TestSpoolOfAnotherVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cycles.log"), []byte("ops_worker record log 99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := OpenSpool(dir, 100)
	if err == nil || !strings.Contains(err.Error(), "SPOOL_DIR") || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
}

func TestSpoolKeepsItsFileSmall(t *testing.T) {
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	largest := int64(0)
	for _, c := range cyclesFrom(time.Now(), 5000) {
		push(t, spool, c)
		if err := spool.Remove(1); err != nil {
			t.Fatal(err)
		}
		largest = max(largest, spool.log.Size())
	}
	if largest > 64<<10 {
		t.Errorf("the file of a buffer that is always emptied grew to %d bytes", largest)
	}
	push(t, spool, cyclesFrom(time.Now(), 1000)...)
	if spool.Len() != 100 || spool.records > 300 {
		t.Errorf("%d cycles wait in %d records, want 100 in at most twice as many and some", spool.Len(), spool.records)
	}
}

func TestSpoolThatTheDiskRefusesStillBuffers(t *testing.T) {
	spool, _ := openSpool(t, t.TempDir(), 100)
	spool.log.Close()
	_, err := spool.Push(cycleAt(time.Now(), 1))
	if err == nil || !errors.Is(err, os.ErrClosed) || spool.Len() != 1 {
		t.Errorf("%d cycles wait, %v", spool.Len(), err)
	}
}

func TestSpoolSaysWhatItHasNoRoomFor(t *testing.T) {
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	push(t, spool, cyclesFrom(time.Now(), 50)...)
	spool.Close()
	if _, left := openSpool(t, dir, 10); left != (Leftover{Cycles: 10, Dropped: 40}) {
		t.Errorf("%+v", left)
	}
}

func TestSpoolCatchesUpAfterADiskThatRefused(t *testing.T) {
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	cycles := cyclesFrom(time.Now().UTC(), 5)
	push(t, spool, cycles[:2]...)
	spool.behind = true // as after a failed append
	push(t, spool, cycles[2:]...)
	spool.Close()
	spool, _ = openSpool(t, dir, 100)
	if diff := cmp.Diff(cycles, spool.Oldest(1000)); diff != "" {
		t.Error(diff)
	}
}

package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func openSpool(t *testing.T, dir string, limit int) (*Spool, Leftover) {
	t.Helper()
	spool, left, err := Open(dir, limit)
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

func cycleAt(at time.Time, values ...float64) Cycle {
	c := Cycle{At: at}
	for i, v := range values {
		c.Samples = append(c.Samples, Sample{Metric: fmt.Sprintf("metric_%d", i), Service: "ingest", Tags: "{}", Value: v})
	}
	return c
}

func oldest(b Buffer) []Cycle {
	cycles, _ := b.Oldest(1000)
	return cycles
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
	if diff := cmp.Diff(cycles, oldest(spool)); diff != "" || left != (Leftover{Cycles: 5}) {
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

func TestSpoolOfAnotherVersionIsLeftAsItIs(t *testing.T) {
	dir := t.TempDir()
	const content = "ops_worker record log 99\n"
	path := filepath.Join(dir, "cycles.log")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	spool, _, err := Open(dir, 100)
	if err == nil || !strings.Contains(err.Error(), "SPOOL_DIR") || !strings.Contains(err.Error(), "another version") {
		t.Errorf("%v", err)
	}
	if _, err := spool.Push(cycleAt(time.Now(), 1)); err == nil || spool.Len() != 1 {
		t.Errorf("%d cycles wait, %v", spool.Len(), err)
	}
	if after, _ := os.ReadFile(path); string(after) != content {
		t.Errorf("the file is now %q", after)
	}
}

// Whatever becomes of the directory, the cycles are there, and on disk as soon
// as there is one.
func TestSpoolWithoutItsDisk(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(t *testing.T, dir string)
		mend   func(t *testing.T, dir string)
		before bool // the disk is away at the start
	}{
		"a directory that is removed": {
			spoil: func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) },
			mend:  func(*testing.T, string) {}, // it is made again at once
		},
		"a file that is replaced": {
			spoil: func(t *testing.T, dir string) {
				must(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
				must(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "cycles.log")))
			},
			mend: func(*testing.T, string) {},
		},
		"a directory that cannot be made": {
			spoil:  func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)); must(t, os.WriteFile(dir, nil, 0o600)) },
			mend:   func(t *testing.T, dir string) { must(t, os.Remove(dir)) },
			before: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "spool")
			if test.before {
				test.spoil(t, dir)
			}
			spool, _, err := Open(dir, 100)
			if (err != nil) != test.before {
				t.Fatal(err)
			}
			defer func() { spool.Close() }()
			cycles := cyclesFrom(time.Now().UTC(), 6)
			if !test.before {
				push(t, spool, cycles[:2]...)
				test.spoil(t, dir)
			} else {
				for _, c := range cycles[:2] {
					if _, err := spool.Push(c); err == nil {
						t.Error("no error while the disk is away")
					}
				}
			}
			test.mend(t, dir)
			push(t, spool, cycles[2:]...)
			if diff := cmp.Diff(cycles, oldest(spool)); diff != "" {
				t.Error(diff)
			}
			spool.Close()
			again, left, err := Open(dir, 100)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if diff := cmp.Diff(cycles, oldest(again)); diff != "" || left.Cycles != 6 {
				t.Errorf("%+v: %s", left, diff)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSpoolKeepsItsFileSmall(t *testing.T) {
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	largest := int64(0)
	for _, c := range cyclesFrom(time.Now(), 5000) {
		push(t, spool, c)
		_, through := spool.Oldest(1000)
		if err := spool.Remove(through); err != nil {
			t.Fatal(err)
		}
		largest = max(largest, spool.log.size)
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
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	readOnly, err := os.Open(filepath.Join(dir, "cycles.log"))
	must(t, err)
	must(t, spool.log.file.Close())
	spool.log.file = readOnly // a disk that takes nothing
	cycles := cyclesFrom(time.Now().UTC(), 3)
	if _, err := spool.Push(cycles[0]); err == nil || spool.Len() != 1 {
		t.Errorf("%d cycles wait, %v", spool.Len(), err)
	}
	push(t, spool, cycles[1:]...) // it takes something again
	spool.Close()
	again, _ := openSpool(t, dir, 100)
	if diff := cmp.Diff(cycles, oldest(again)); diff != "" {
		t.Error(diff)
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
	if diff := cmp.Diff(cycles, oldest(spool)); diff != "" {
		t.Error(diff)
	}
}

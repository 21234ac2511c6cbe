package spool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// Wherever a crash cuts the file off, the whole lines before stay, and what is appended
// afterwards is not lost.
func TestATornLineIsDropped(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cycles := []Cycle{cycleAt(at, 1), cycleAt(at.Add(time.Second), 2)}
	spool, _ := openSpool(t, dir, 100)
	push(t, spool, cycles...)
	spool.Close()
	content, err := os.ReadFile(path)
	must(t, err)
	for end := range content {
		cut := content[:end]
		must(t, os.WriteFile(path, cut, 0o600))
		whole := bytes.Count(cut, []byte("\n"))
		torn := int64(end - bytes.LastIndexByte(cut, '\n') - 1)
		if content[end] == '\n' { // which is all that is missing
			whole, torn = whole+1, 0
		}
		spool, left, err := Open(dir, 100)
		must(t, err)
		if left != (Leftover{Cycles: whole, TornBytes: torn}) || !cmp.Equal(oldest(spool), cycles[:whole], cmpopts.EquateEmpty()) {
			t.Fatalf("cut at %d: %+v", end, left)
		}
		push(t, spool, cycleAt(time.Unix(1, 0)))
		spool.Close()
		spool, left, err = Open(dir, 100)
		must(t, err)
		if left != (Leftover{Cycles: whole + 1}) {
			t.Fatalf("cut at %d, and appended to: %+v", end, left)
		}
		spool.Close()
	}
}

func TestALineThatIsNoCycleCostsItselfAlone(t *testing.T) {
	dir := t.TempDir()
	const content = "\x00\x00\n" + `{"at":"2026-01-02T03:04:05Z","samples":[{"m":"a","t":"{}","v":1},{"m":"b","t":"no object","v":1}]}` + "\n{}\n"
	must(t, os.WriteFile(filepath.Join(dir, fileName), []byte(content), 0o600))
	spool, left := openSpool(t, dir, 100)
	want := []Cycle{{At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Samples: []Sample{{Metric: "a", Tags: "{}", Value: 1}}}}
	if diff := cmp.Diff(want, oldest(spool)); diff != "" || left != (Leftover{Cycles: 1, TornBytes: 6}) {
		t.Errorf("%+v: %s", left, diff)
	}
}

func TestTheFileOfAnEarlierVersionIsLeftAsItIs(t *testing.T) {
	dir := t.TempDir()
	const content = "ops_worker record log 1\nwhatever"
	path := filepath.Join(dir, earlierFile)
	must(t, os.WriteFile(path, []byte(content), 0o600))
	spool, left := openSpool(t, dir, 100)
	push(t, spool, cycleAt(time.Now(), 1))
	if left != (Leftover{EarlierFile: path}) {
		t.Errorf("%+v", left)
	}
	if after, _ := os.ReadFile(path); string(after) != content {
		t.Errorf("the file is now %q", after)
	}
}

func TestTwoProcessesCannotShareASpool(t *testing.T) {
	dir := t.TempDir()
	openSpool(t, dir, 100)
	second, _, err := Open(dir, 100)
	if err == nil || !strings.Contains(err.Error(), "SPOOL_DIR") || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second one: %v", err)
	}
	if _, err := second.Push(cycleAt(time.Now(), 1)); err == nil || second.Len() != 1 {
		t.Errorf("%d cycles wait in it, %v", second.Len(), err)
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
				must(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, fileName)))
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

// A disk that is away while the spool is opened doubles nothing, and a store that was
// in flight when it came back takes away nothing that it has not stored.
func TestCyclesOfAnEarlierProcessAreThereOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	cycles := cyclesFrom(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 4)
	spool, _ := openSpool(t, dir, 100)
	push(t, spool, cycles[:2]...)
	spool.Close()
	rename(t, dir, dir+".away")
	must(t, os.WriteFile(dir, nil, 0o600))
	spool, _, err := Open(dir, 100)
	if err == nil || spool.Len() != 0 {
		t.Fatalf("%d cycles, %v", spool.Len(), err)
	}
	if _, err := spool.Push(cycles[2]); err == nil {
		t.Fatal("no error while the disk is away")
	}
	_, through := spool.Oldest(1000)
	must(t, os.Remove(dir))
	rename(t, dir+".away", dir)
	push(t, spool, cycles[3])
	must(t, spool.Remove(through))
	if diff := cmp.Diff(cycles, oldest(spool)); diff != "" {
		t.Error(diff)
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
		info, err := spool.file.Stat()
		must(t, err)
		largest = max(largest, info.Size())
	}
	if largest > 64<<10 {
		t.Errorf("the file of a buffer that is always emptied grew to %d bytes", largest)
	}
	push(t, spool, cyclesFrom(time.Now(), 1000)...)
	if spool.Len() != 100 || spool.lines > 300 {
		t.Errorf("%d cycles wait in %d lines, want 100 in at most twice as many and some", spool.Len(), spool.lines)
	}
}

func TestSpoolThatTheDiskRefusesStillBuffers(t *testing.T) {
	dir := t.TempDir()
	spool, _ := openSpool(t, dir, 100)
	readOnly, err := os.Open(filepath.Join(dir, fileName))
	must(t, err)
	must(t, spool.file.Close())
	spool.file = readOnly // a disk that takes nothing
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

// A disk that goes and comes back, with its file or without, gives no cycle twice.
func TestADiskThatComesBackAddsNothing(t *testing.T) {
	for name, away := range map[string]func(t *testing.T, dir string) (back func()){
		"with its file": func(t *testing.T, dir string) func() {
			rename(t, dir, dir+".away")
			must(t, os.WriteFile(dir, nil, 0o600)) // so that no other is made
			return func() {
				must(t, os.Remove(dir))
				rename(t, dir+".away", dir)
			}
		},
		"in the place of a new one": func(t *testing.T, dir string) func() {
			rename(t, dir, dir+".away")
			return func() {
				rename(t, dir, dir+".new")
				rename(t, dir+".away", dir)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "spool")
			cycles := cyclesFrom(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 9)
			spool, _ := openSpool(t, dir, 100)
			push(t, spool, cycles[:5]...)
			back := away(t, dir)
			for _, c := range cycles[5:7] {
				_, _ = spool.Push(c)
			}
			back()
			push(t, spool, cycles[7:]...)
			if diff := cmp.Diff(cycles, oldest(spool)); diff != "" {
				t.Error(diff)
			}
			spool.Close()
			again, _ := openSpool(t, dir, 100)
			if diff := cmp.Diff(cycles, oldest(again)); diff != "" {
				t.Errorf("in the file: %s", diff)
			}
		})
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.Rename(from, to))
}

// A start on a disk with no room for the file a second time has all that is in it.
func TestAStartNeedsNoRoomToReadTheFile(t *testing.T) {
	dir := t.TempDir()
	cycles := cyclesFrom(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 6)
	spool, _ := openSpool(t, dir, 100)
	push(t, spool, cycles[:5]...)
	spool.Close()
	blocked := filepath.Join(dir, fileName+".new")
	must(t, os.Mkdir(blocked, 0o700)) // nothing can be written there
	spool, left, err := Open(dir, 100)
	if err == nil || left.Cycles != 5 {
		t.Errorf("%+v, %v", left, err)
	}
	if diff := cmp.Diff(cycles[:5], oldest(spool)); diff != "" {
		t.Error(diff)
	}
	must(t, os.Remove(blocked))
	push(t, spool, cycles[5])
	spool.Close()
	again, _ := openSpool(t, dir, 100)
	if diff := cmp.Diff(cycles, oldest(again)); diff != "" {
		t.Errorf("in the file: %s", diff)
	}
}

func TestANoteOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kept := func(s *Spool) (note map[string]int) {
		t.Helper()
		if err := s.Kept(&note); err != nil {
			t.Error(err)
		}
		return note
	}
	s, _ := openSpool(t, dir, 10)
	if note := kept(s); note != nil {
		t.Errorf("a new spool has %v", note)
	}
	for n := range 3 {
		if err := s.Keep(map[string]int{"n": n}); err != nil {
			t.Error(err)
		}
	}
	s.Close()
	if err := s.Keep(map[string]int{"n": 9}); err == nil {
		t.Error("a spool that is not open, perhaps since another process has it, is written")
	}
	s, _ = openSpool(t, dir, 10)
	if note := kept(s); note["n"] != 2 {
		t.Errorf("it has %v", note)
	}
	for range 2 {
		if err := s.Keep(nil); err != nil {
			t.Error(err)
		}
	}
	if note := kept(s); note != nil {
		t.Errorf("it still has %v", note)
	}
	if err := os.WriteFile(filepath.Join(dir, noteName), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	var note map[string]int
	if err := s.Kept(&note); err == nil || !strings.Contains(err.Error(), "SPOOL_DIR") {
		t.Errorf("a torn note: %v", err)
	}
}

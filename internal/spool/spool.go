package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	fileName    = "cycles.jsonl"
	noteName    = "alerts.json"
	earlierFile = "cycles.log" // of earlier versions, in another format
	trimAfter   = 64           // lines of removed cycles
)

// Spool is a Buffer that survives the process: a file with a JSON line for each cycle,
// which is synced before the cycle is stored. Lines of stored cycles are removed later,
// since it is harmless to store a cycle again. While the disk fails, cycles are kept in
// memory, and each new one tries the disk again.
type Spool struct {
	memoryBuffer
	path    string
	lock    *os.File
	file    *os.File // nil while it cannot be opened
	lines   int      // in the file
	wasRead bool     // what an earlier process has left is in memory
	behind  bool     // the file lacks cycles that the disk refused
}

// Leftover is what a spool held when it was opened.
type Leftover struct {
	Cycles      int    // that wait to be stored
	Dropped     int    // the oldest, beyond the limit
	TornBytes   int64  // of lines that a crash has cut off
	EarlierFile string // a file of an earlier version, which is left as it is
}

// Open opens the spool in dir, which it makes, for at most limit cycles, and returns
// what an earlier process has left. After an error, which names SPOOL_DIR, the spool
// keeps its cycles in memory until the disk works.
func Open(dir string, limit int) (*Spool, Leftover, error) {
	s := &Spool{memoryBuffer: memoryBuffer{limit: limit}, path: filepath.Join(dir, fileName)}
	left, err := s.open()
	return s, left, err
}

// open makes the file, which then has the cycles that are in memory. What an earlier
// process has left is read once: later the file has nothing that memory lacks.
func (s *Spool) open() (left Leftover, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("SPOOL_DIR: %w", err)
			s.Close()
		}
	}()
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return left, err
	}
	if s.lock, err = lock(s.path + ".lock"); err != nil {
		return left, err
	}
	if !s.wasRead {
		if left, err = s.read(); err != nil {
			return left, err
		}
		s.wasRead = true
	}
	return left, s.rewrite()
}

// read puts the cycles of the file, which are older, before those in memory.
func (s *Spool) read() (left Leftover, err error) {
	content, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return left, err
	}
	before := s.memoryBuffer
	// Cycles that are being stored now are no longer the first: their Remove must not
	// remove others.
	s.memoryBuffer = memoryBuffer{limit: before.limit, gone: before.gone + uint64(before.Len())}
	for line := range bytes.Lines(content) {
		c, err := decode(line)
		if err != nil {
			left.TornBytes += int64(len(line))
			continue
		}
		left.Dropped += len(s.push(c))
	}
	left.Cycles = s.Len()
	for _, c := range before.cycles {
		left.Dropped += len(s.push(c))
	}
	earlier := filepath.Join(filepath.Dir(s.path), earlierFile)
	if _, err := os.Stat(earlier); err == nil {
		left.EarlierFile = earlier
	}
	return left, nil
}

// lock excludes other processes from the spool.
func lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("in use by another process")
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// decode reads a line, and drops samples that cannot be stored.
func decode(line []byte) (c Cycle, err error) {
	if err := json.Unmarshal(line, &c); err != nil {
		return c, err
	}
	if c.At.IsZero() {
		return c, errors.New("no cycle")
	}
	c.Samples = slices.DeleteFunc(c.Samples, func(s Sample) bool { return s.Storable() != nil })
	return c, nil
}

// Push adds a cycle. If the disk refuses it, it returns an error, but keeps the cycle in
// memory.
func (s *Spool) Push(c Cycle) (dropped []Cycle, err error) {
	dropped = s.push(c)
	switch {
	case s.file == nil || !s.inPlace():
		s.Close() // a file that was removed or replaced would be lost at a restart
		_, err = s.open()
	case s.behind:
		err = s.rewrite()
	default:
		err = s.append(c)
	}
	return dropped, err
}

// inPlace reports whether the open file is still the one at path.
func (s *Spool) inPlace() bool {
	named, err := os.Stat(s.path)
	opened, openedErr := s.file.Stat()
	return err == nil && openedErr == nil && os.SameFile(named, opened)
}

// append returns when the disk has the cycle.
func (s *Spool) append(c Cycle) error {
	line, err := json.Marshal(c)
	if err == nil {
		_, err = s.file.Write(append(line, '\n'))
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.behind = true // the next rewrite drops a partial line
		return fmt.Errorf("append to spool: %w", err)
	}
	s.lines++
	return s.trim()
}

// Remove removes the cycles that Oldest returned.
func (s *Spool) Remove(through uint64) error {
	_ = s.memoryBuffer.Remove(through) // never fails
	if s.file == nil {
		return nil // the next Push tries the disk
	}
	return s.trim()
}

// trim rewrites the file when more lines are of removed cycles than of those that wait,
// and at least trimAfter.
func (s *Spool) trim() error {
	if s.lines-s.Len() < max(trimAfter, s.Len()) {
		return nil
	}
	return s.rewrite()
}

// rewrite replaces the file by one with the cycles that wait.
func (s *Spool) rewrite() error {
	s.behind = true
	err := replace(s.path, func(file *os.File) (err error) {
		lines := json.NewEncoder(file)
		for _, c := range s.cycles {
			if err == nil {
				err = lines.Encode(c)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("rewrite spool: %w", err)
	}
	file, err := os.OpenFile(s.path, os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_ = s.file.Close() // may be nil; nobody reads it any more
	s.file, s.lines, s.behind = file, s.Len(), false
	return nil
}

// replace replaces a file by one that write fills. A crash leaves either the old file or
// the new one.
func replace(path string, write func(*os.File) error) error {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err = write(file); err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// Keep keeps a note, as JSON; nil removes it. A crash leaves either the old one or the
// new one.
func (s *Spool) Keep(note any) error {
	path := s.notePath()
	switch {
	case s.lock == nil:
		return errors.New("SPOOL_DIR: not open")
	case note == nil:
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return replace(path, func(file *os.File) error { return json.NewEncoder(file).Encode(note) })
}

// Kept reads the note into value, if there is one.
func (s *Spool) Kept(value any) error {
	content, err := os.ReadFile(s.notePath())
	if errors.Is(err, os.ErrNotExist) || s.lock == nil {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(content, value)
	}
	if err != nil {
		return fmt.Errorf("SPOOL_DIR: read %s: %w", noteName, err)
	}
	return nil
}

func (s *Spool) notePath() string { return filepath.Join(filepath.Dir(s.path), noteName) }

// Close closes the file, and keeps its cycles.
func (s *Spool) Close() {
	_, _ = s.file.Close(), s.lock.Close() // synced before, and may be nil
	s.file, s.lock = nil, nil
}

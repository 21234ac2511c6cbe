package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// recordVersion is the version of a spool record's encoding.
const recordVersion = 1

// trimAfter is how many records of cycles that are gone the file may hold before
// it is written anew.
const trimAfter = 64

// Spool is a Buffer that survives the process. Every cycle is on disk before it
// is stored; cycles that were stored are taken off lazily, since storing one
// again is harmless. Without its disk it goes on in memory, and with every cycle
// it looks whether the disk is back.
type Spool struct {
	memory  memoryBuffer
	path    string
	log     *recordLog // nil while the disk cannot be had
	records int        // in the file
	behind  bool       // the file lacks cycles that the disk refused
}

// diskCycle is a cycle on disk.
type diskCycle struct {
	At      time.Time    `json:"at"`
	Samples []diskSample `json:"samples"`
}

type diskSample struct {
	Metric  string  `json:"m"`
	Service string  `json:"s,omitempty"`
	Tags    string  `json:"t"`
	Value   float64 `json:"v"`
}

// Leftover is what a spool held when it was opened.
type Leftover struct {
	Cycles    int   // that wait to be stored
	Dropped   int   // the oldest, for which this process has no room
	TornBytes int64 // of a record that a crash has cut off
}

// Open opens the spool in dir, which it makes, with room for limit cycles. It
// returns what an earlier process has left in it. With an error, which names
// SPOOL_DIR, the spool is there and keeps its cycles in memory until the disk
// can be had; a file of another version stays as it is.
func Open(dir string, limit int) (*Spool, Leftover, error) {
	s := &Spool{memory: memoryBuffer{limit: limit}, path: filepath.Join(dir, "cycles.log")}
	left, err := s.open()
	return s, left, err
}

// open opens the file. What it holds is older than what waits in memory.
func (s *Spool) open() (left Leftover, err error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return left, fmt.Errorf("SPOOL_DIR: %w", err)
	}
	log, records, torn, err := openLog(s.path, recordVersion)
	if errors.Is(err, errVersion) {
		err = fmt.Errorf("%w; let the version that wrote it empty it, or move it away", err)
	}
	if err != nil {
		return left, fmt.Errorf("SPOOL_DIR: %w", err)
	}
	names := map[string]string{}
	waiting := s.memory.cycles
	s.memory.cycles, s.memory.bytes = nil, 0
	for _, content := range records {
		var r diskCycle
		if err := json.Unmarshal(content, &r); err != nil {
			left.TornBytes += int64(len(content)) // whole, and still no cycle
			continue
		}
		left.Dropped += len(s.memory.push(r.cycle(names)))
	}
	left.Cycles, left.TornBytes = s.memory.Len(), left.TornBytes+torn
	for _, c := range waiting {
		left.Dropped += len(s.memory.push(c))
	}
	s.log, s.records, s.behind = log, len(records), len(waiting) > 0
	return left, nil
}

// cycle decodes, without samples that cannot be stored; names lets equal names
// share their memory.
func (r diskCycle) cycle(names map[string]string) Cycle {
	shared := func(name string) string {
		if known, ok := names[name]; ok {
			return known
		}
		names[name] = name
		return name
	}
	c := Cycle{At: r.At, Samples: make([]Sample, len(r.Samples))}
	for i, s := range r.Samples {
		c.Samples[i] = Sample{Metric: shared(s.Metric), Service: shared(s.Service), Tags: shared(s.Tags), Value: s.Value}
	}
	c.Samples = slices.DeleteFunc(c.Samples, func(s Sample) bool { return s.Storable() != nil })
	return c
}

func encodeCycle(c Cycle) ([]byte, error) {
	r := diskCycle{At: c.At, Samples: make([]diskSample, len(c.Samples))}
	for i, s := range c.Samples {
		r.Samples[i] = diskSample(s)
	}
	return json.Marshal(r)
}

// Push keeps the cycle in memory even where the disk refuses it; the error says
// that it does.
func (s *Spool) Push(c Cycle) (dropped []Cycle, err error) {
	dropped = s.memory.push(c)
	return dropped, s.write(c)
}

func (s *Spool) write(c Cycle) error {
	// A file that was removed or replaced would be written to in vain.
	if s.log != nil && !s.log.inPlace() {
		_ = s.log.close() // there is nothing left of it
		s.log = nil
	}
	if s.log == nil {
		if _, err := s.open(); err != nil {
			return err
		}
		return s.rewrite()
	}
	if s.behind {
		return s.rewrite()
	}
	record, err := encodeCycle(c)
	if err != nil {
		return fmt.Errorf("encode cycle: %w", err)
	}
	if err := s.log.append(record); err != nil {
		s.behind = true
		return fmt.Errorf("append to spool: %w", err)
	}
	s.records++
	return s.trim()
}

// Oldest returns the first cycles.
func (s *Spool) Oldest(samples int) ([]Cycle, uint64) { return s.memory.Oldest(samples) }

// Newest is the time of the last cycle, zero in an empty spool.
func (s *Spool) Newest() time.Time { return s.memory.Newest() }

// Len is how many cycles wait.
func (s *Spool) Len() int { return s.memory.Len() }

// Remove takes away the cycles up to those that Oldest returned.
func (s *Spool) Remove(through uint64) error {
	s.memory.removeThrough(through)
	if s.log == nil {
		return nil // the next Push looks for the disk
	}
	return s.trim()
}

// trim writes the file anew where too much of it is gone: a fixed number when
// the buffer is empty or small, as many as there are cycles when it is large.
func (s *Spool) trim() error {
	if s.records-s.memory.Len() < max(trimAfter, s.memory.Len()) {
		return nil
	}
	return s.rewrite()
}

// rewrite makes the file hold what waits, and nothing else.
func (s *Spool) rewrite() error {
	records := make([][]byte, 0, s.memory.Len())
	for _, c := range s.memory.cycles {
		record, err := encodeCycle(c)
		if err != nil {
			return fmt.Errorf("encode cycle: %w", err)
		}
		records = append(records, record)
	}
	if err := s.log.rewrite(records); err != nil {
		s.behind = true
		return fmt.Errorf("rewrite spool: %w", err)
	}
	s.records, s.behind = len(records), false
	return nil
}

// Close lets go of the file; its cycles stay.
func (s *Spool) Close() error {
	if s.log == nil {
		return nil
	}
	return s.log.close()
}

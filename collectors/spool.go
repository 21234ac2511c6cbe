package collectors

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ops_worker/internal/recordlog"
)

// spoolVersion is the version of a spool record's encoding.
const spoolVersion = 1

// spoolTrim is how many records of cycles that are gone the file may hold before
// it is written anew.
const spoolTrim = 64

// Spool is a Buffer that survives the process. Every cycle is on disk before it
// is stored; cycles that were stored are taken off lazily, since storing one
// again is harmless.
type Spool struct {
	memory  memoryBuffer
	log     *recordlog.Log
	records int  // in the file
	behind  bool // the file lacks cycles that the disk refused
}

// spoolRecord is a cycle on disk.
type spoolRecord struct {
	At      time.Time     `json:"at"`
	Samples []spoolSample `json:"samples"`
}

type spoolSample struct {
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

// OpenSpool opens the spool in dir, which it makes, with room for limit cycles.
// It returns what an earlier process has left in it. A file of another version is
// an error.
func OpenSpool(dir string, limit int) (spool *Spool, left Leftover, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, left, fmt.Errorf("SPOOL_DIR: %w", err)
	}
	log, records, torn, err := recordlog.Open(filepath.Join(dir, "cycles.log"), spoolVersion)
	if errors.Is(err, recordlog.ErrVersion) {
		err = fmt.Errorf("%w; let the version that wrote it empty it, or move it away", err)
	}
	if err != nil {
		return nil, left, fmt.Errorf("SPOOL_DIR: %w", err)
	}
	s := &Spool{memory: memoryBuffer{limit: limit}, log: log, records: len(records)}
	names := map[string]string{}
	for _, content := range records {
		var r spoolRecord
		if err := json.Unmarshal(content, &r); err != nil {
			log.Close()
			return nil, left, fmt.Errorf("SPOOL_DIR: a record that is whole cannot be read: %w", err)
		}
		left.Dropped += s.memory.push(r.cycle(names))
	}
	left.Cycles, left.TornBytes = s.memory.Len(), torn
	return s, left, nil
}

// cycle decodes; names lets equal names share their memory.
func (r spoolRecord) cycle(names map[string]string) Cycle {
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
	return c
}

func encodeCycle(c Cycle) ([]byte, error) {
	r := spoolRecord{At: c.At, Samples: make([]spoolSample, len(c.Samples))}
	for i, s := range c.Samples {
		r.Samples[i] = spoolSample(s)
	}
	return json.Marshal(r)
}

// Push keeps the cycle in memory even where the disk refuses it.
func (s *Spool) Push(c Cycle) (dropped int, err error) {
	dropped = s.memory.push(c)
	record, err := encodeCycle(c)
	if err != nil {
		return dropped, fmt.Errorf("encode cycle: %w", err)
	}
	if s.behind {
		return dropped, s.rewrite()
	}
	if err := s.log.Append(record); err != nil {
		s.behind = true
		return dropped, fmt.Errorf("append to spool: %w", err)
	}
	s.records++
	return dropped, s.trim()
}

// Oldest returns the first cycles.
func (s *Spool) Oldest(samples int) []Cycle { return s.memory.Oldest(samples) }

// Newest is the time of the last cycle, zero where there is none.
func (s *Spool) Newest() time.Time { return s.memory.Newest() }

// Len is how many cycles wait.
func (s *Spool) Len() int { return s.memory.Len() }

// Remove takes away the n oldest.
func (s *Spool) Remove(n int) error {
	s.memory.remove(n)
	return s.trim()
}

// trim writes the file anew where too much of it is gone: a fixed number when
// the buffer is empty or small, as many as there are cycles when it is large.
func (s *Spool) trim() error {
	if s.records-s.memory.Len() < max(spoolTrim, s.memory.Len()) {
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
	if err := s.log.Rewrite(records); err != nil {
		return fmt.Errorf("rewrite spool: %w", err)
	}
	s.records, s.behind = len(records), false
	return nil
}

// Close lets go of the file; its cycles stay.
func (s *Spool) Close() error { return s.log.Close() }

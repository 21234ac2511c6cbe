// Package spool keeps finished cycles, oldest first, until the database has them: in
// memory, or with a directory on disk as well.
package spool

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"
)

const (
	maxBufferBytes = 32 << 20 // bounds the buffer if cycles are large
	maxTags        = 64 << 10 // of one sample
)

// Sample is one measured value. Its time is its cycle's.
type Sample struct {
	Metric  string  `json:"m"`
	Service string  `json:"s,omitempty"` // empty for a sample of no service
	Tags    string  `json:"t"`           // a JSON object
	Value   float64 `json:"v"`
}

// Cycle is what one cycle of the metrics collector measured.
type Cycle struct {
	At      time.Time `json:"at"`
	Samples []Sample  `json:"samples"`
}

// size is roughly the memory of a cycle, in bytes.
func (c Cycle) size() int {
	size := int(unsafe.Sizeof(c))
	for _, s := range c.Samples {
		size += int(unsafe.Sizeof(s)) + len(s.Metric) + len(s.Service) + len(s.Tags)
	}
	return size
}

// Storable returns why no table could store a sample, or nil. What the actual table
// refuses beyond that, such as by a constraint, an operator can mend.
func (s Sample) Storable() error {
	for _, name := range []string{s.Metric, s.Service} {
		if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return errors.New("its name is no text")
		}
	}
	if math.IsNaN(s.Value) || math.IsInf(s.Value, 0) {
		return errors.New("its value is no finite number")
	}
	if s.Tags == "{}" { // nearly all
		return nil
	}
	var tags map[string]any
	if err := json.Unmarshal([]byte(s.Tags), &tags); err != nil || tags == nil || len(s.Tags) > maxTags || strings.Contains(s.Tags, `\u`) {
		return errors.New("its tags are no JSON object that the database takes")
	}
	return nil
}

// Buffer keeps finished cycles, oldest first, until they are stored.
type Buffer interface {
	// Push adds a cycle. If the buffer is full, it drops and returns the oldest ones.
	Push(Cycle) (dropped []Cycle, err error)
	// Oldest returns the first cycles, with at most so many samples but at least one
	// cycle, and the argument with which Remove removes them.
	Oldest(samples int) (cycles []Cycle, through uint64)
	// Remove removes the cycles that Oldest returned. Push may already have dropped some
	// of them.
	Remove(through uint64) error
	Len() int
	// Newest is the time of the newest cycle; zero in an empty buffer.
	Newest() time.Time
	// Keep keeps a note beside the cycles for the next process, where there is a disk; nil
	// removes it.
	Keep(note any) error
	// Kept reads the note of the process before, if there is one.
	Kept(note any) error
}

// memoryBuffer is a Buffer that lives as long as the process.
type memoryBuffer struct {
	limit  int
	cycles []Cycle
	bytes  int
	gone   uint64 // how many cycles were removed or dropped so far
}

// NewMemory keeps at most limit cycles, as long as the process lives.
func NewMemory(limit int) Buffer { return &memoryBuffer{limit: limit} }

func (b *memoryBuffer) Push(c Cycle) (dropped []Cycle, err error) { return b.push(c), nil }

func (b *memoryBuffer) push(c Cycle) (dropped []Cycle) {
	b.cycles = append(b.cycles, c)
	b.bytes += c.size()
	for len(b.cycles) > b.limit || (b.bytes > maxBufferBytes && len(b.cycles) > 1) {
		dropped = append(dropped, b.removeOldest())
	}
	return dropped
}

func (b *memoryBuffer) Oldest(samples int) (cycles []Cycle, through uint64) {
	n, rows := 0, 0
	for n < len(b.cycles) && (n == 0 || rows+len(b.cycles[n].Samples) <= samples) {
		rows += len(b.cycles[n].Samples)
		n++
	}
	return slices.Clone(b.cycles[:n]), b.gone + uint64(n)
}

func (b *memoryBuffer) Remove(through uint64) error {
	for b.gone < through {
		b.removeOldest()
	}
	return nil
}

func (b *memoryBuffer) removeOldest() Cycle {
	oldest := b.cycles[0]
	b.cycles[0] = Cycle{} // else the slice's array would keep its samples
	b.cycles = b.cycles[1:]
	b.bytes -= oldest.size()
	b.gone++
	return oldest
}

func (b *memoryBuffer) Keep(any) error { return nil }

func (b *memoryBuffer) Kept(any) error { return nil }

func (b *memoryBuffer) Len() int { return len(b.cycles) }

func (b *memoryBuffer) Newest() time.Time {
	if len(b.cycles) == 0 {
		return time.Time{}
	}
	return b.cycles[len(b.cycles)-1].At
}

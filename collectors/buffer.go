package collectors

import (
	"time"
	"unsafe"
)

// Sample is one measured value, less its time, which is its cycle's.
type Sample struct {
	Metric  string
	Service string // empty is none
	Tags    string // a JSON object
	Value   float64
}

// Cycle is what one turn of the metrics collector measured.
type Cycle struct {
	At      time.Time
	Samples []Sample
}

// size is roughly what a cycle weighs in memory.
func (c Cycle) size() int {
	size := int(unsafe.Sizeof(c))
	for _, s := range c.Samples {
		size += int(unsafe.Sizeof(s)) + len(s.Metric) + len(s.Service) + len(s.Tags)
	}
	return size
}

// maxBufferBytes bounds the buffer where cycles are large.
const maxBufferBytes = 32 << 20

// Buffer keeps finished cycles, oldest first, until they are stored.
type Buffer interface {
	// Push adds a cycle and drops the oldest ones that there is no room for.
	Push(Cycle) (dropped int, err error)
	// Oldest returns the first cycles, at least one and at most so many that
	// they have samples for one statement.
	Oldest(samples int) []Cycle
	// Remove takes away the n oldest.
	Remove(n int) error
	Len() int
	// Newest is the time of the last cycle, zero where there is none.
	Newest() time.Time
}

// memoryBuffer is a Buffer that lives as long as the process.
type memoryBuffer struct {
	limit  int
	cycles []Cycle
	bytes  int
}

// NewMemoryBuffer keeps at most limit cycles.
func NewMemoryBuffer(limit int) Buffer { return &memoryBuffer{limit: limit} }

func (b *memoryBuffer) Push(c Cycle) (dropped int, err error) { return b.push(c), nil }

func (b *memoryBuffer) push(c Cycle) (dropped int) {
	b.cycles = append(b.cycles, c)
	b.bytes += c.size()
	for len(b.cycles) > b.limit || (b.bytes > maxBufferBytes && len(b.cycles) > 1) {
		b.remove(1)
		dropped++
	}
	return dropped
}

func (b *memoryBuffer) Oldest(samples int) []Cycle {
	n, rows := 0, 0
	for n < len(b.cycles) && (n == 0 || rows+len(b.cycles[n].Samples) <= samples) {
		rows += len(b.cycles[n].Samples)
		n++
	}
	return b.cycles[:n]
}

func (b *memoryBuffer) Remove(n int) error {
	b.remove(n)
	return nil
}

func (b *memoryBuffer) remove(n int) {
	for i := range n {
		b.bytes -= b.cycles[i].size()
		b.cycles[i] = Cycle{} // or the array behind the slice would keep it
	}
	b.cycles = b.cycles[n:]
	if len(b.cycles) == 0 {
		b.cycles = nil
	}
}

func (b *memoryBuffer) Len() int { return len(b.cycles) }

func (b *memoryBuffer) Newest() time.Time {
	if len(b.cycles) == 0 {
		return time.Time{}
	}
	return b.cycles[len(b.cycles)-1].At
}

package collectors

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/spool"
)

// queue holds the cycles that wait to be stored. The gatherer adds to it, and the
// storer takes from it.
type queue struct {
	added chan struct{} // signals every cycle that is added

	mu     sync.Mutex // may be held for long, by a disk that hangs
	buffer spool.Buffer
	disk   faultlog.Log

	backlog atomic.Pointer[backlog] // read without mu
}

// backlog is how many cycles wait, and the time of the oldest.
type backlog struct {
	cycles int
	oldest time.Time
}

func newQueue(buffer spool.Buffer) *queue {
	q := &queue{added: make(chan struct{}, 1), buffer: buffer}
	q.changed(zerolog.Nop(), nil)
	return q
}

// changed notes how many cycles wait now, and logs when the disk stops taking cycles
// and when it takes them again.
func (q *queue) changed(log zerolog.Logger, err error) {
	q.disk.Observe(log, err, "the spool cannot be written, cycles are kept in memory alone", "the spool is written again")
	now := backlog{cycles: q.buffer.Len()}
	if first, _ := q.buffer.Oldest(0); len(first) > 0 {
		now.oldest = first[0].At
	}
	q.backlog.Store(&now)
}

// waiting is how many cycles wait, and the time of the oldest.
func (q *queue) waiting() (cycles int, oldest time.Time) {
	now := q.backlog.Load()
	return now.cycles, now.oldest
}

// add adds a cycle, and returns the cycles that a full buffer dropped for it.
func (q *queue) add(log zerolog.Logger, cycle spool.Cycle) (dropped []spool.Cycle) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped, err := q.buffer.Push(cycle)
	q.changed(log, err)
	select {
	case q.added <- struct{}{}:
	default: // the store that is already due takes this cycle too
	}
	return dropped
}

// oldest returns the first cycles, up to about so many samples, and the argument with
// which remove drops them.
func (q *queue) oldest(samples int) (cycles []spool.Cycle, through uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buffer.Oldest(samples)
}

// all returns every cycle that waits.
func (q *queue) all() []spool.Cycle {
	cycles, _ := q.oldest(math.MaxInt)
	return cycles
}

// newest is the time of the newest cycle that waits; zero if none does.
func (q *queue) newest() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buffer.Newest()
}

// remove drops the cycles that oldest returned.
func (q *queue) remove(log zerolog.Logger, through uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changed(log, q.buffer.Remove(through))
}

// keep keeps a note beside the cycles, for the next process; nil removes it.
func (q *queue) keep(note any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buffer.Keep(note)
}

// kept reads the note of the process before.
func (q *queue) kept(note any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buffer.Kept(note)
}

// supersede drops and returns the cycles up to the newest that another replica has
// stored: they can never be stored.
func (q *queue) supersede(log zerolog.Logger, lastCycleAt time.Time) []spool.Cycle {
	q.mu.Lock()
	defer q.mu.Unlock()
	cycles, through := q.buffer.Oldest(math.MaxInt)
	n := slices.IndexFunc(cycles, func(c spool.Cycle) bool { return c.At.After(lastCycleAt) })
	if n < 0 {
		n = len(cycles)
	}
	if n == 0 {
		return nil
	}
	q.changed(log, q.buffer.Remove(through-uint64(len(cycles)-n)))
	log.Info().Int("cycles", n).Time("through", lastCycleAt).Msg("buffered cycles superseded: another replica has stored that time")
	return cycles[:n]
}

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

// queue holds the cycles that wait to be stored. The gatherer adds to it, the storer
// takes from it, and that is all they share.
type queue struct {
	// added is told of every cycle that is added.
	added chan struct{}

	mu     sync.Mutex // held while a disk hangs
	buffer spool.Buffer
	disk   faultlog.Log

	// waits is for those who do not wait for the disk.
	waits atomic.Pointer[backlog]
}

// backlog is how many cycles wait, and the time of the oldest.
type backlog struct {
	cycles int
	oldest time.Time
}

func newQueue(buffer spool.Buffer) *queue {
	q := &queue{added: make(chan struct{}, 1), buffer: buffer}
	q.count()
	return q
}

// count notes how many cycles wait.
func (q *queue) count() {
	now := backlog{cycles: q.buffer.Len()}
	if first, _ := q.buffer.Oldest(0); len(first) > 0 {
		now.oldest = first[0].At
	}
	q.waits.Store(&now)
}

// waiting is how many cycles wait, and the time of the oldest.
func (q *queue) waiting() (cycles int, oldest time.Time) {
	now := q.waits.Load()
	return now.cycles, now.oldest
}

// observe logs when the disk stops taking cycles, and when it takes them again.
func (q *queue) observe(log zerolog.Logger, err error) {
	q.disk.Observe(log, err, "the spool cannot be written, cycles are kept in memory alone", "the spool is written again")
}

// add takes a cycle, and returns those that had to go for it.
func (q *queue) add(log zerolog.Logger, cycle spool.Cycle) (dropped []spool.Cycle) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped, err := q.buffer.Push(cycle)
	q.observe(log, err)
	q.count()
	select {
	case q.added <- struct{}{}:
	default: // the store that is due takes this one too
	}
	return dropped
}

// oldest returns the first cycles, of about so many samples, and what remove takes.
func (q *queue) oldest(samples int) (cycles []spool.Cycle, through uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buffer.Oldest(samples)
}

// all are the cycles that wait.
func (q *queue) all() []spool.Cycle {
	cycles, _ := q.oldest(math.MaxInt)
	return cycles
}

// newest is the time of the newest cycle that waits.
func (q *queue) newest() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.buffer.Newest()
}

// remove drops the cycles that oldest has returned.
func (q *queue) remove(log zerolog.Logger, through uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.observe(log, q.buffer.Remove(through))
	q.count()
}

// supersede drops the cycles up to the newest that another replica has stored: these
// can never be stored. It returns them.
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
	q.observe(log, q.buffer.Remove(through-uint64(len(cycles)-n)))
	q.count()
	log.Info().Int("cycles", n).Time("through", lastCycleAt).Msg("buffered cycles superseded: another replica has stored that time")
	return cycles[:n]
}

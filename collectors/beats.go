package collectors

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/faultlog"
)

// Heart is told of every turn of the loops.
type Heart interface {
	Beat(loop string, interval time.Duration) error
	Forget(loops ...string) error
}

// beats tells a heart, which writes to a disk, of the loops' turns: where the disk
// hangs, the health check fails and no loop waits.
type beats struct {
	heart  Heart
	log    zerolog.Logger
	queue  chan func() error
	failed sync.Once
}

// beatsWaiting is how many turns a slow disk may be behind; more are left out.
const beatsWaiting = 64

func newBeats(heart Heart, log zerolog.Logger) *beats {
	return &beats{heart: heart, log: log, queue: make(chan func() error, beatsWaiting)}
}

// turned notes that a loop turns now and will again within interval.
func (b *beats) turned(loop string, interval time.Duration) {
	b.add(func() error { return b.heart.Beat(loop, interval) })
}

// ended takes loops out that owe no further turn.
func (b *beats) ended(loops ...string) {
	b.add(func() error { return b.heart.Forget(loops...) })
}

func (b *beats) add(beat func() error) {
	select {
	case b.queue <- beat:
	default:
	}
}

// write tells the heart until ctx is done, and then what is left.
func (b *beats) write(ctx context.Context) {
	for {
		select {
		case beat := <-b.queue:
			b.tell(beat)
		case <-ctx.Done():
			for len(b.queue) > 0 {
				b.tell(<-b.queue)
			}
			return
		}
	}
}

// tell logs the first failure: a health check that then fails should not be a riddle.
func (b *beats) tell(beat func() error) {
	defer faultlog.Recovered(b.log.WithContext(context.Background()), func(error) {})
	if err := beat(); err != nil {
		b.failed.Do(func() { b.log.Warn().Err(err).Msg("heartbeat not written, healthcheck will fail") })
	}
}

// writing writes beside what runs, and returns what ends that: where the disk hangs,
// without it.
func (b *beats) writing() (end func()) {
	ctx, stop := context.WithCancel(context.Background())
	written := make(chan struct{})
	go func() {
		defer close(written)
		b.write(ctx)
	}()
	return func() {
		stop()
		select {
		case <-written:
		case <-time.After(lastBeats):
		}
	}
}

// lastBeats bounds the writing of what is left at the end.
const lastBeats = 500 * time.Millisecond

package collectors

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
)

// stopGrace is how long a cycle in flight may go on after its loop is told to
// stop. The rest of the promised 5 s is for handing back the lease and closing
// the pool, each of which may have to do without an answer.
const stopGrace = 3500 * time.Millisecond

// Loop calls a function once at its start and then every interval, on a grid
// that starts with the first call: without drift, since the grid does not move,
// and without overlap, since a cycle that overruns skips the ticks it covers.
type Loop struct {
	Name     string
	Interval time.Duration
	// Deadline bounds one cycle; 0 means Interval.
	Deadline time.Duration
	// FirstAfter delays the first cycle; 0 runs it at once.
	FirstAfter time.Duration
	// Cycle does the work. Its context carries the deadline, a trace id and a
	// logger (zerolog.Ctx). An error or a panic ends this cycle alone.
	Cycle func(context.Context) error
	// Turned, where set, is called before and after every cycle.
	Turned func()
	Log    zerolog.Logger

	cycles, failures, panics, skipped atomic.Uint64
}

// LoopStats counts what a loop has done since it was made.
type LoopStats struct {
	Cycles, Failures, Panics, SkippedTicks uint64
}

// Stats may be called at any time.
func (l *Loop) Stats() LoopStats {
	return LoopStats{l.cycles.Load(), l.failures.Load(), l.panics.Load(), l.skipped.Load()}
}

// Run turns until ctx is done, and returns when the cycle in flight has ended.
func (l *Loop) Run(ctx context.Context) {
	log := l.Log.With().Str("loop", l.Name).Logger()
	var failing, overrunning streak

	timer := time.NewTimer(l.FirstAfter)
	defer timer.Stop()
	start := time.Now().Add(l.FirstAfter)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		l.turned()
		log, err := l.runOnce(ctx, log)
		l.turned()

		elapsed := time.Since(start)
		next := elapsed/l.Interval + 1
		if ctx.Err() == nil {
			failing.observe(log, err, "cycle failed", "cycles succeed again")
			// The grid moves up to the tick that is due next; those between
			// were covered by this cycle.
			if skipped := next - 1; skipped > 0 {
				l.skipped.Add(uint64(skipped))
				overrunning.observe(log, fmt.Errorf("skipped %d ticks of %s: the cycle took %s", skipped, l.Interval, elapsed.Round(time.Millisecond)),
					"cycle overran its interval", "cycles are on time again")
			} else {
				overrunning.observe(log, nil, "", "cycles are on time again")
			}
		}
		start = start.Add(next * l.Interval)
		timer.Reset(time.Until(start))
	}
}

func (l *Loop) turned() {
	if l.Turned != nil {
		l.Turned()
	}
}

// runOnce runs one cycle under its deadline and turns a panic into an error. It
// returns the logger that carries the cycle's trace id.
func (l *Loop) runOnce(parent context.Context, log zerolog.Logger) (traced zerolog.Logger, err error) {
	l.cycles.Add(1)
	deadline := l.Deadline
	if deadline == 0 {
		deadline = l.Interval
	}
	limited, cancel := context.WithTimeoutCause(context.WithoutCancel(parent), deadline,
		fmt.Errorf("%s cycle exceeded its deadline of %s", l.Name, deadline))
	defer cancel()
	stop := context.AfterFunc(parent, func() {
		grace := time.NewTimer(stopGrace)
		defer grace.Stop()
		select {
		case <-grace.C:
			cancel()
		case <-limited.Done():
		}
	})
	defer stop()

	ctx, traced := withTrace(limited, log)
	defer func() {
		if err != nil {
			l.failures.Add(1)
		}
	}()
	defer recovered(ctx, func(panicked error) {
		l.panics.Add(1)
		err = panicked
	})
	return traced, l.Cycle(ctx)
}

// recovered, deferred, logs a panic with its stack and hands it to fail as an
// error. Every goroutine of a cycle defers it: one that does not would end the
// process, and the other loop with it.
func recovered(ctx context.Context, fail func(error)) {
	if r := recover(); r != nil {
		zerolog.Ctx(ctx).Error().Str("stack", string(debug.Stack())).Msgf("panic: %v", r)
		fail(fmt.Errorf("panic: %s", plainText(fmt.Sprint(r))))
	}
}

package collectors

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/pace"
	"ops_worker/internal/probe"
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
	// Trigger, where set, starts a cycle at each of its values, and Interval
	// counts for nothing; it needs a Deadline.
	Trigger <-chan struct{}
	// Cycle does the work. Its context carries the deadline, a trace id and a
	// logger (zerolog.Ctx). An error or a panic ends this cycle alone.
	Cycle func(context.Context) error
	// EndsAtOnce gives a cycle in flight no time to end when the loop is told to stop.
	EndsAtOnce bool
	// Turned, where set, is called before and after every cycle.
	Turned func()
	// Ended, where set, is told of every cycle: how long it took, what failed, and
	// how many ticks it covered besides its own.
	Ended func(took time.Duration, err error, skipped int)
	// StandsStill, where set, is told of a turn that has not returned long after its
	// deadline: something in it waits for what does not heed its context.
	StandsStill func(loop string)
	Log         zerolog.Logger
}

// leastStandstill is how long after its deadline a turn stands still, where three
// intervals are less.
const leastStandstill = 15 * time.Second

// watch returns what ends the watch over the turn that begins now.
func (l *Loop) watch() (end func() bool) {
	if l.StandsStill == nil {
		return func() bool { return true }
	}
	after := l.deadline() + max(pace.Overdue(l.Interval), leastStandstill)
	return time.AfterFunc(after, func() { l.StandsStill(l.Name) }).Stop
}

func (l *Loop) deadline() time.Duration {
	if l.Deadline == 0 {
		return l.Interval
	}
	return l.Deadline
}

// Run turns until ctx is done, and returns when the cycle in flight has ended.
func (l *Loop) Run(ctx context.Context) {
	log := l.Log.With().Str("loop", l.Name).Logger()
	var failing, overrunning faultlog.Log
	var due *time.Timer
	var ticks <-chan time.Time // none where there is a trigger
	start := time.Now().Add(l.FirstAfter)
	if l.Trigger == nil {
		due = time.NewTimer(l.FirstAfter)
		defer due.Stop()
		ticks = due.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		case <-l.Trigger:
		}
		watched := l.watch()
		l.turned(ctx, log)
		began := time.Now()
		log, err := l.runOnce(ctx, log)
		took := time.Since(began)
		l.turned(ctx, log)
		skipped := time.Duration(0)
		if l.Trigger == nil {
			// The grid moves up to the tick that is due next; those between were covered
			// by this cycle.
			skipped = time.Since(start) / l.Interval
			start = start.Add((skipped + 1) * l.Interval)
			due.Reset(time.Until(start))
		}
		l.ended(ctx, log, took, err, int(skipped))
		watched()
		if ctx.Err() == nil {
			failing.Observe(log, err, "cycle failed", "cycles succeed again")
			overrunning.Observe(log, l.overrun(skipped, took), "cycle overran its interval", "cycles are on time again")
		}
	}
}

func (l *Loop) overrun(skipped, took time.Duration) error {
	if skipped == 0 {
		return nil
	}
	return fmt.Errorf("skipped %d ticks of %s: the cycle took %s", skipped, l.Interval, took.Round(time.Millisecond))
}

func (l *Loop) turned(ctx context.Context, log zerolog.Logger) {
	defer faultlog.Recovered(log.WithContext(ctx), func(error) {})
	if l.Turned != nil {
		l.Turned()
	}
}

func (l *Loop) ended(ctx context.Context, log zerolog.Logger, took time.Duration, err error, skipped int) {
	defer faultlog.Recovered(log.WithContext(ctx), func(error) {})
	if l.Ended != nil {
		l.Ended(took, err, skipped)
	}
}

// runOnce runs one cycle under its deadline and turns a panic into an error. It
// returns the logger that carries the cycle's trace id.
func (l *Loop) runOnce(parent context.Context, log zerolog.Logger) (traced zerolog.Logger, err error) {
	limited, cancel := context.WithTimeoutCause(context.WithoutCancel(parent), l.deadline(),
		fmt.Errorf("%s cycle exceeded its deadline of %s", l.Name, l.deadline()))
	defer cancel()
	stop := context.AfterFunc(parent, func() {
		if l.EndsAtOnce {
			cancel()
			return
		}
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
	defer faultlog.Recovered(ctx, func(panicked error) { err = panicked })
	return traced, l.Cycle(ctx)
}

// withTrace gives a cycle its trace id, and its logger that id.
func withTrace(ctx context.Context, log zerolog.Logger) (context.Context, zerolog.Logger) {
	id := uuid.NewString()
	log = log.With().Str("trace_id", id).Logger()
	return probe.WithTraceID(log.WithContext(ctx), id), log
}

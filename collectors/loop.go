package collectors

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/pace"
	"ops_worker/internal/probe"
)

// stopGrace is how long a cycle in flight may go on after its loop is told to stop.
// The rest of the promised 5 s is for handing back the lease and closing the pool,
// for which the database may not answer.
const stopGrace = 3 * time.Second

// Loop calls a function at once and then every interval, on a fixed grid that starts
// with the first call. Cycles never overlap: one that overruns skips the ticks it
// covers.
type Loop struct {
	Name     string
	Interval time.Duration
	// Deadline bounds one cycle; 0 means Interval.
	Deadline time.Duration
	// FirstAfter delays the first cycle; 0 runs it at once.
	FirstAfter time.Duration
	// Trigger, if set, starts a cycle at each of its values. Interval is then unused,
	// and Deadline is required.
	Trigger <-chan struct{}
	// Cycle does the work. Its context carries the deadline, a trace id and a
	// logger (zerolog.Ctx). An error or a panic ends this cycle alone.
	Cycle func(context.Context) error
	// EndsAtOnce gives a cycle in flight no time to end when the loop is told to stop.
	EndsAtOnce bool
	// Turned, if set, is called before and after every cycle.
	Turned func()
	// Ended, if set, is called after every cycle, with the number of skipped ticks.
	Ended func(took time.Duration, err error, skipped int)
	// StandsStill, if set, is called when a cycle has not returned long after its
	// deadline: something in it ignores its context.
	StandsStill func(loop string)
	Log         zerolog.Logger
}

// leastStandstill is how long after its deadline a cycle counts as standing still, if
// three intervals are less.
const leastStandstill = 15 * time.Second

// Run runs cycles until ctx is done, and returns when the cycle in flight has ended.
func (l *Loop) Run(ctx context.Context) {
	log := l.Log.With().Str("loop", l.Name).Logger()
	var failing, overrunning faultlog.Log
	var due *time.Timer
	ticks := l.Trigger
	start := time.Now().Add(l.FirstAfter)
	if l.Trigger == nil {
		tick := make(chan struct{}, 1)
		// Not a timer's own channel: under the race detector two goroutines of one
		// synctest bubble that find such timers due crash Go 1.26.
		due = time.AfterFunc(l.FirstAfter, func() { tick <- struct{}{} })
		defer due.Stop()
		ticks = tick
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		unwatch := l.watch()
		l.callHook(ctx, log, l.Turned)
		began := time.Now()
		log, err := l.runOnce(ctx, log)
		took := time.Since(began)
		l.callHook(ctx, log, l.Turned)
		skipped := time.Duration(0)
		if l.Trigger == nil {
			skipped = time.Since(start) / l.Interval
			start = start.Add((skipped + 1) * l.Interval) // the next tick
			due.Reset(time.Until(start))
		}
		if l.Ended != nil {
			l.callHook(ctx, log, func() { l.Ended(took, err, int(skipped)) })
		}
		unwatch()
		if ctx.Err() == nil {
			var overrun error
			if skipped > 0 {
				why := "the cycle took " + took.Round(time.Millisecond).String()
				if took < l.Interval {
					why = "the process was stopped or had no processor"
				}
				overrun = fmt.Errorf("skipped %d ticks of %s: %s", skipped, l.Interval, why)
			}
			failing.Observe(log, err, "cycle failed", "cycles succeed again")
			overrunning.Observe(log, overrun, "cycle overran its interval", "cycles are on time again")
		}
	}
}

func (l *Loop) deadline() time.Duration { return cmp.Or(l.Deadline, l.Interval) }

// watch calls StandsStill if the cycle that begins now has not ended in time.
func (l *Loop) watch() (unwatch func() bool) {
	if l.StandsStill == nil {
		return func() bool { return true }
	}
	after := l.deadline() + max(pace.Overdue(l.Interval), leastStandstill)
	return time.AfterFunc(after, func() { l.StandsStill(l.Name) }).Stop
}

// callHook calls hook, which may be nil. A panic in it does not end the loop.
func (l *Loop) callHook(ctx context.Context, log zerolog.Logger, hook func()) {
	defer faultlog.Recovered(log.WithContext(ctx), func(error) {})
	if hook != nil {
		hook()
	}
}

// runOnce runs one cycle under its deadline and turns a panic into an error. It
// returns the logger that carries the cycle's trace id.
func (l *Loop) runOnce(parent context.Context, log zerolog.Logger) (traced zerolog.Logger, err error) {
	limited, cancel := context.WithTimeoutCause(context.WithoutCancel(parent), l.deadline(),
		fmt.Errorf("%s cycle exceeded its deadline of %s", l.Name, l.deadline()))
	defer cancel()
	stop := context.AfterFunc(parent, func() {
		if !l.EndsAtOnce {
			backoff.Wait(limited, stopGrace)
		}
		cancel()
	})
	defer stop()

	ctx, traced := withTrace(limited, log)
	defer faultlog.Recovered(ctx, func(panicked error) { err = panicked })
	return traced, l.Cycle(ctx)
}

// withTrace gives the context and the logger of a cycle its trace id.
func withTrace(ctx context.Context, log zerolog.Logger) (context.Context, zerolog.Logger) {
	id := uuid.NewString()
	log = log.With().Str("trace_id", id).Logger()
	return probe.WithTraceID(log.WithContext(ctx), id), log
}

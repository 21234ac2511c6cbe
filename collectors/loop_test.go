package collectors

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
)

// ticksOf runs a loop for a while and returns when its cycles started, counted
// from the loop's start.
func ticksOf(t *testing.T, loop *Loop, lifetime time.Duration) []time.Duration {
	t.Helper()
	var ticks []time.Duration
	begin := time.Now()
	cycle := loop.Cycle
	loop.Cycle = func(ctx context.Context) error {
		ticks = append(ticks, time.Since(begin))
		if cycle == nil {
			return nil
		}
		return cycle(ctx)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lifetime)
	defer cancel()
	loop.Run(ctx)
	return ticks
}

func sec(n ...float64) []time.Duration {
	list := make([]time.Duration, len(n))
	for i, s := range n {
		list[i] = time.Duration(s * float64(time.Second))
	}
	return list
}

func TestLoopTurnsAtOnceAndThenEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := ticksOf(t, &Loop{Interval: 5 * time.Second}, 21*time.Second)
		if diff := cmp.Diff(sec(0, 5, 10, 15, 20), got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoopDoesNotDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := ticksOf(t, &Loop{Interval: 5 * time.Second, Cycle: func(context.Context) error {
			pass(1700 * time.Millisecond) // the work, in the bubble's time
			return nil
		}}, 16*time.Second)
		if diff := cmp.Diff(sec(0, 5, 10, 15), got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoopDelaysItsFirstCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := ticksOf(t, &Loop{Interval: 10 * time.Second, FirstAfter: 3 * time.Second}, 24*time.Second)
		if diff := cmp.Diff(sec(3, 13, 23), got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLoopSkipsTheTicksThatACycleCovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		n := 0
		loop := &Loop{Interval: time.Second, Deadline: time.Hour, Log: log.Logger(), Cycle: func(context.Context) error {
			if n++; n <= 2 {
				pass(3500 * time.Millisecond)
			}
			return nil
		}}
		got := ticksOf(t, loop, 2*time.Minute) // quiet for more than a minute
		if diff := cmp.Diff(sec(0, 4, 8, 9, 10), got[:5]); diff != "" {
			t.Error(diff)
		}
		lines := log.Lines(t, "cycle overran its interval")
		if len(lines) != 1 || lines[0]["error"] != "skipped 3 ticks of 1s: the cycle took 3.5s" {
			t.Errorf("an overrun that lasts should be one line with its number: %v", lines)
		}
		if n := len(log.Lines(t, "cycles are on time again")); n != 1 {
			t.Errorf("%d lines say that it is over, want 1", n)
		}
	})
}

func TestTicksThatNoCycleCoversAreTheProcesss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		frozen := sync.OnceFunc(func() { pass(2500 * time.Millisecond) })
		loop := &Loop{Interval: time.Second, Log: log.Logger(), Turned: frozen, Cycle: func(context.Context) error { return nil }}
		ticksOf(t, loop, 10*time.Second)
		lines := log.Lines(t, "cycle overran its interval")
		if len(lines) != 1 || lines[0]["error"] != "skipped 2 ticks of 1s: the process was stopped or had no processor" {
			t.Errorf("%v", lines)
		}
	})
}

func TestLoopSurvivesErrorsAndPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		n := 0
		loop := &Loop{Name: "health", Interval: time.Second, Log: log.Logger(), Cycle: func(context.Context) error {
			switch n++; n {
			case 2:
				return errors.New("no luck")
			case 3:
				panic("out of luck")
			}
			return nil
		}}
		if got := ticksOf(t, loop, 4500*time.Millisecond); len(got) != 5 {
			t.Errorf("the loop turned %d times, want 5", len(got))
		}
		if failed := log.Lines(t, "cycle failed"); len(failed) != 1 || failed[0]["trace_id"] == nil {
			t.Errorf("a streak of failures should be one line with its trace id: %v", failed)
		}
		panics := log.Lines(t, "panic")
		if len(panics) != 1 || panics[0]["panic"] != "out of luck" || panics[0]["stack"] == nil || panics[0]["trace_id"] == nil {
			t.Errorf("a panic should be logged with its stack and trace id: %v", panics)
		}
	})
}

func TestLoopLogsALastingFaultOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		begin := time.Now()
		ticksOf(t, &Loop{Interval: time.Second, Log: log.Logger(), Cycle: func(context.Context) error {
			if time.Since(begin) < 150*time.Second {
				return errors.New("no luck")
			}
			return nil
		}}, 300*time.Second)
		if n := len(log.Lines(t, "cycle failed")); n != 3 { // at 0 s, 60 s and 120 s
			t.Errorf("%d lines in 150 s of failing, want 3", n)
		}
		if n := len(log.Lines(t, "cycles succeed again")); n != 1 {
			t.Errorf("%d lines say that it is over, want 1", n)
		}
	})
}

func TestLoopGivesEachCycleADeadlineAndATrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		traces := map[string]bool{}
		loop := &Loop{Name: "metrics", Interval: 5 * time.Second, Deadline: 2 * time.Second, Cycle: func(ctx context.Context) error {
			traces[probe.TraceID(ctx)] = true
			begin := time.Now()
			<-ctx.Done()
			if took := time.Since(begin); took != 2*time.Second {
				t.Errorf("the deadline came after %s", took)
			}
			if cause := context.Cause(ctx).Error(); cause != "metrics cycle exceeded its deadline of 2s" {
				t.Errorf("cause: %s", cause)
			}
			return ctx.Err()
		}}
		ticksOf(t, loop, 11*time.Second)
		if len(traces) != 3 || traces[""] {
			t.Errorf("trace ids of three cycles: %v", traces)
		}
	})
}

func TestLoopEndsTheCycleInFlightWithinItsGrace(t *testing.T) {
	for name, test := range map[string]struct{ work, want time.Duration }{
		"that ends by itself": {2 * time.Second, 2 * time.Second},
		"that would not end":  {time.Hour, stopGrace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				loop := &Loop{Interval: time.Hour, Log: zerolog.Nop(), Cycle: func(cycle context.Context) error {
					stop()
					backoff.Wait(cycle, test.work)
					return cycle.Err()
				}}
				begin := time.Now()
				loop.Run(ctx)
				if took := time.Since(begin); took != test.want {
					t.Errorf("the loop stopped after %s, want %s", took, test.want)
				}
			})
		})
	}
}

func TestLoopBeatsBeforeAndAfterEachCycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beats := 0
		ticksOf(t, &Loop{Interval: time.Second, Turned: func() { beats++ }}, 2500*time.Millisecond)
		if beats != 6 {
			t.Errorf("%d beats in three cycles, want 6", beats)
		}
	})
}

func TestAPanicIsAFailedCycleInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logtest.Log
		ticksOf(t, &Loop{Interval: time.Second, Log: log.Logger(), Cycle: func(context.Context) error { panic("again") }}, 2500*time.Millisecond)
		if lines := log.Lines(t, "cycle failed"); len(lines) != 1 || lines[0]["error"] != "panic: again" || lines[0]["trace_id"] == nil {
			t.Errorf("lines: %v", lines)
		}
	})
}

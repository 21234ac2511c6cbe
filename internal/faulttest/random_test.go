package faulttest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("seed", 0, "seed of the random faults; 0 takes a new one")
	faults = flag.Int("faults", 200, "how many random faults")
)

// TestRandomFaults breaks whatever chance names, one fault after the other and
// some at once, and then looks at what is left.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("run it again with: go test -race -run RandomFaults ./internal/faulttest -seed %d -faults %d", *seed, *faults)
	random := rand.New(rand.NewPCG(*seed, 0))
	r := newRig(t)
	r.shimClock()
	spools := []string{filepath.Join(t.TempDir(), "spool"), filepath.Join(t.TempDir(), "spool")}
	hook := newWebhook(t)
	start := func(i int) *worker { return r.start("SPOOL_DIR="+spools[i], hook.setting()) }
	workers := []*worker{start(0), start(1)}
	noDisk := []time.Time{{}, {}} // when the disk last failed, by worker
	forgotten := 0                // how often a worker ended without a disk for what it had told
	end := func(i int, s syscall.Signal) {
		// The disk has the alerts again after the next check.
		if time.Since(noDisk[i]) < 2*healthInterval {
			forgotten++
		}
		if status := workers[i].end(s); status != 0 && s != syscall.SIGKILL {
			t.Errorf("status %d", status)
		}
	}
	r.settle()
	r.mark()

	halts := []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT}
	brief := func() { r.lasting(time.Duration(random.IntN(int(leaseTTL / 2)))) }
	kinds := []struct {
		name  string
		fault func(i int)
	}{
		{"kill -9", func(i int) {
			end(i, syscall.SIGKILL)
			brief()
			workers[i] = start(i)
		}},
		{"SIGTERM", func(i int) {
			end(i, syscall.SIGTERM)
			workers[i] = start(i)
		}},
		{"SIGSTOP", func(i int) {
			workers[i].signal(syscall.SIGSTOP)
			brief()
			brief()
			workers[i].signal(syscall.SIGCONT)
		}},
		{"terminate", func(int) {
			r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ops_worker'")
		}},
		{"cut", func(int) { r.proxy.cut() }},
		{"refuse", func(int) {
			r.proxy.set(func(p *proxy) { p.refuse = true })
			r.proxy.cut()
			brief()
			r.proxy.heal()
		}},
		{"hole", func(int) {
			r.proxy.set(func(p *proxy) { p.hole = true })
			brief()
			r.proxy.heal()
		}},
		{"freeze", func(int) { r.proxy.freeze() }},
		{"latency", func(int) {
			r.proxy.set(func(p *proxy) { p.latency = time.Duration(random.IntN(60)) * time.Millisecond })
			brief()
			r.proxy.heal()
		}},
		{"slow table", func(int) {
			r.slowTable(time.Duration(random.IntN(20)) * time.Millisecond)
			brief()
			r.slowTable(0)
		}},
		{"hung service beside a slow table", func(int) {
			r.hang.Store(true)
			r.slowTable(time.Duration(random.IntN(10)) * time.Millisecond)
			brief()
			r.slowTable(0)
			r.hang.Store(false)
		}},
		{"refused rows", func(int) {
			r.refuseWrites([]string{"23502", "23514", "22003", "42501"}[random.IntN(4)])
			brief()
			r.acceptWrites()
		}},
		{"no disk for the spool", func(i int) {
			if err := errors.Join(os.RemoveAll(spools[i]), os.WriteFile(spools[i], nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			brief()
			if err := os.Remove(spools[i]); err != nil {
				t.Fatal(err)
			}
			noDisk[i] = time.Now()
		}},
		{"a clock that jumps", func(int) {
			r.setClock([]time.Duration{400 * 24 * time.Hour, 2 * time.Hour, -2 * time.Hour, 3 * time.Second, -3 * time.Second}[random.IntN(5)])
			brief()
			r.setClock(0)
		}},
		{"SIGTERM over dead connections", func(i int) {
			r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ops_worker'")
			end(i, syscall.SIGTERM)
			workers[i] = start(i)
		}},
		{"restart", func(int) { r.halted(halts[random.IntN(2)], brief) }},
		{"an outage", func(i int) {
			r.halted(halts[random.IntN(2)], func() {
				r.lasting(healthInterval + time.Duration(random.IntN(int(leaseTTL))))
				if random.IntN(2) > 0 {
					end(i, syscall.SIGKILL)
					workers[i] = start(i)
				}
				brief()
			})
		}},
		{"a service turns", func(int) {
			if r.evaluate.Load() == http.StatusOK {
				r.evaluate.Store(http.StatusServiceUnavailable)
			} else {
				r.evaluate.Store(http.StatusOK)
			}
		}},
		{"the webhook turns", func(int) {
			hook.set([]int{http.StatusOK, http.StatusOK, http.StatusInternalServerError, hung}[random.IntN(4)])
		}},
	}
	seldom := map[string]int{"restart": 2, "an outage": 3}
	counts := map[string]int{}
	for range *faults {
		// What takes long comes less often.
		kind := kinds[random.IntN(len(kinds))]
		if random.IntN(seldom[kind.name]+1) > 0 {
			kind = kinds[0]
		}
		counts[kind.name]++
		kind.fault(random.IntN(2))
		r.lasting(time.Duration(random.IntN(int(interval))))
	}
	t.Logf("faults: %v", counts)
	r.evaluate.Store(http.StatusOK)
	hook.set(http.StatusOK)
	// Faults follow on each other, so the time without a leader adds up; that
	// nothing is lost or doubled and that it all ends well does not depend on it.
	r.holds(fmt.Sprintf("%d random faults", *faults), 2*time.Minute)
	r.tellsOfEveryAlert(hook)
	// A worker that ends without a disk takes with it what it has told and could not
	// store. Nobody knows then that it told of an alert.
	unclosed := func() string {
		return fmt.Sprintf("%d openings have no closing, %d may have none: %q", len(hook.unclosed()), forgotten, hook.unclosed())
	}
	r.withinSaying(righting, unclosed, func() bool { return len(hook.unclosed()) <= forgotten })
	events, again := hook.counted()
	t.Logf("%s; %d events were heard, %d times more than once", unclosed(), events, again)
}

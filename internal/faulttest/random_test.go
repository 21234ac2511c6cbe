package faulttest

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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
	c := newChance(t, rand.New(rand.NewPCG(*seed, 0)))
	c.settle()
	c.mark()
	kinds := c.kinds()
	counts := map[string]int{}
	for range *faults {
		kind := kinds[c.random.IntN(len(kinds))]
		if c.random.IntN(kind.seldom+1) > 0 {
			kind = kinds[0]
		}
		counts[kind.name]++
		kind.fault(c.random.IntN(2))
		c.lasting(time.Duration(c.random.IntN(int(interval))))
	}
	t.Logf("faults: %v", counts)
	c.evaluate.Store(http.StatusOK)
	c.hook.set(http.StatusOK)
	// Faults follow on each other, so the time without a leader adds up; that
	// nothing is lost or doubled and that it all ends well does not depend on it.
	c.holds(fmt.Sprintf("%d random faults", *faults), 2*time.Minute)
	c.tellsOfEveryAlert(c.hook)
	// A worker may have told of an alert that nobody could store. If it then ends, and the
	// disk has lost its note of that, nobody can tell the end of the alert.
	unclosed := func() string {
		return fmt.Sprintf("%d openings have no closing, %d may have none: %q", len(c.hook.unclosed()), c.forgotten, c.hook.unclosed())
	}
	c.withinSaying(righting, unclosed, func() bool { return len(c.hook.unclosed()) <= c.forgotten })
	events, again := c.hook.counted()
	t.Logf("%s; %d events were heard, and came %d times more", unclosed(), events, again)
}

// chance is a rig with two workers that random faults meet.
type chance struct {
	*rig
	random    *rand.Rand
	hook      *webhook
	spools    []string
	workers   []*worker
	bare      []bool // whether the worker has lost the disk's note of its alerts
	forgotten int    // how many such workers ended
}

func newChance(t *testing.T, random *rand.Rand) *chance {
	t.Helper()
	c := &chance{rig: newRig(t), random: random, hook: newWebhook(t), bare: make([]bool, 2)}
	c.shimClock()
	for i := range 2 {
		c.spools = append(c.spools, filepath.Join(t.TempDir(), "spool"))
		c.workers = append(c.workers, nil)
		c.begin(i)
	}
	return c
}

func (c *chance) begin(i int) {
	c.workers[i], c.bare[i] = c.start("SPOOL_DIR="+c.spools[i], c.hook.setting()), false
}

func (c *chance) end(i int, s syscall.Signal) {
	if c.bare[i] || strings.Contains(c.workers[i].log.String(), "alerts are kept in memory alone") {
		c.forgotten++
	}
	if status := c.workers[i].end(s); status != 0 && s != syscall.SIGKILL {
		c.t.Errorf("status %d", status)
	}
}

// brief lasts a second at most.
func (c *chance) brief() { c.lasting(time.Duration(c.random.IntN(int(leaseTTL / 2)))) }

// halt is a signal that halts the server.
func (c *chance) halt() syscall.Signal {
	return []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT}[c.random.IntN(2)]
}

// kind is a kind of fault, of worker i where it is one worker's. For one that is seldom
// the first kind stands in so many times out of seldom + 1.
type kind struct {
	name   string
	seldom int
	fault  func(i int)
}

func (c *chance) kinds() []kind {
	return append(append(c.processFaults(), c.databaseFaults()...), c.otherFaults()...)
}

func (c *chance) processFaults() []kind {
	return []kind{
		{"kill -9", 0, func(i int) {
			c.end(i, syscall.SIGKILL)
			c.brief()
			c.begin(i)
		}},
		{"SIGTERM", 0, func(i int) {
			c.end(i, syscall.SIGTERM)
			c.begin(i)
		}},
		{"SIGSTOP", 0, func(i int) {
			c.workers[i].signal(syscall.SIGSTOP)
			c.brief()
			c.brief()
			c.workers[i].signal(syscall.SIGCONT)
		}},
		{"SIGTERM over dead connections", 0, func(i int) {
			c.terminate()
			c.end(i, syscall.SIGTERM)
			c.begin(i)
		}},
	}
}

func (c *chance) terminate() {
	c.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ops_worker'")
}

func (c *chance) databaseFaults() []kind {
	return []kind{
		{"terminate", 0, func(int) { c.terminate() }},
		{"cut", 0, func(int) { c.proxy.cut() }},
		{"refuse", 0, func(int) {
			c.proxy.set(func(p *proxy) { p.refuse = true })
			c.proxy.cut()
			c.brief()
			c.proxy.heal()
		}},
		{"hole", 0, func(int) {
			c.proxy.set(func(p *proxy) { p.hole = true })
			c.brief()
			c.proxy.heal()
		}},
		{"freeze", 0, func(int) { c.proxy.freeze() }},
		{"latency", 0, func(int) {
			c.proxy.set(func(p *proxy) { p.latency = time.Duration(c.random.IntN(60)) * time.Millisecond })
			c.brief()
			c.proxy.heal()
		}},
		{"slow table", 0, func(int) {
			c.slowTable(time.Duration(c.random.IntN(20)) * time.Millisecond)
			c.brief()
			c.slowTable(0)
		}},
		{"refused rows", 0, func(int) {
			c.refuseWrites([]string{"23502", "23514", "22003", "42501"}[c.random.IntN(4)])
			c.brief()
			c.acceptWrites()
		}},
		{"a clock that jumps", 0, func(int) {
			c.setClock([]time.Duration{400 * 24 * time.Hour, 2 * time.Hour, -2 * time.Hour, 3 * time.Second, -3 * time.Second}[c.random.IntN(5)])
			c.brief()
			c.setClock(0)
		}},
		// These take long.
		{"restart", 2, func(int) { c.halted(c.halt(), c.brief) }},
		{"an outage longer than a check", 3, func(i int) {
			c.halted(c.halt(), func() {
				c.lasting(healthInterval + time.Duration(c.random.IntN(int(leaseTTL))))
				if c.random.IntN(2) > 0 {
					c.end(i, syscall.SIGKILL)
					c.begin(i)
				}
				c.brief()
			})
		}},
	}
}

func (c *chance) otherFaults() []kind {
	return []kind{
		{"hung service beside a slow table", 0, func(int) {
			c.hang.Store(true)
			c.slowTable(time.Duration(c.random.IntN(10)) * time.Millisecond)
			c.brief()
			c.slowTable(0)
			c.hang.Store(false)
		}},
		{"a service turns", 0, func(int) {
			if !c.evaluate.CompareAndSwap(http.StatusOK, http.StatusServiceUnavailable) {
				c.evaluate.Store(http.StatusOK)
			}
		}},
		// It stays so until the next time.
		{"the webhook turns", 0, func(int) {
			c.hook.set([]int{http.StatusOK, http.StatusOK, http.StatusInternalServerError, hung}[c.random.IntN(4)])
		}},
		{"no disk for the spool", 0, func(i int) {
			if _, err := os.Stat(filepath.Join(c.spools[i], "alerts.json")); err == nil {
				c.bare[i] = true
			}
			if err := errors.Join(os.RemoveAll(c.spools[i]), os.WriteFile(c.spools[i], nil, 0o600)); err != nil {
				c.t.Fatal(err)
			}
			c.brief()
			if err := os.Remove(c.spools[i]); err != nil {
				c.t.Fatal(err)
			}
		}},
	}
}

package faulttest

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The promises, as docs/reliability.md makes them for any interval and any
// LEASE_TTL. noGap allows for a machine under load: some cycles late, none lost.
const (
	noGap       = 4 * interval
	takeover    = leaseTTL + 2*time.Second
	handingOver = 2 * time.Second
)

func TestTheLeaderIsKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	r.mark()
	leader.end(syscall.SIGKILL)
	r.eventually("the standby leads", func() bool { return r.leads(standby) })
	r.holds("kill -9 of the leader", takeover)
}

func TestTheLeaderIsStoppedInOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	r.mark()
	begin := time.Now()
	if status := leader.end(syscall.SIGTERM); status != 0 {
		t.Errorf("status %d", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	r.eventually("the standby leads", func() bool { return r.leads(standby) })
	r.holds("SIGTERM of the leader", handingOver)
}

func TestTheLeaderIsFrozenAndWakes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	r.mark()
	leader.signal(syscall.SIGSTOP)
	r.eventually("the standby leads", func() bool { return r.leads(standby) })
	r.settle()
	leader.signal(syscall.SIGCONT)
	r.eventually("the old leader knows", func() bool { return strings.Contains(leader.log.String(), "lease lost") })
	r.holds("SIGSTOP of the leader, and SIGCONT", takeover)
	if !r.leads(standby) {
		t.Error("the old leader has taken the lease back")
	}
}

// Frozen again and again, and so in the middle of a store sooner or later: the
// server's limit on idle transactions lets the standby take over. Each has stored
// a cycle before: a leader that is frozen without one adds its gap to the last's.
func TestTheLeaderIsFrozenAnywhere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	r.mark()
	for i := range 12 {
		r.eventually("the leader has stored a cycle", func() bool {
			return r.counts(1, "SELECT count(*) FROM ops_worker_lease WHERE last_cycle_at > acquired_at")
		})
		r.lasting(interval/2 + time.Duration(i)*interval/12)
		leader.signal(syscall.SIGSTOP)
		r.eventually("the standby leads", func() bool { return r.leads(standby) })
		leader.signal(syscall.SIGCONT)
		leader, standby = standby, leader
	}
	// A store in flight when its process stops holds the lease for as long as
	// the server lets a transaction idle.
	r.holds("SIGSTOP of the leader, 12 times, anywhere", takeover+time.Second)
}

func TestTheStandbyIsKilledFrozenAndStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	r.mark()
	standby.signal(syscall.SIGSTOP)
	r.settle()
	standby.signal(syscall.SIGCONT)
	if status := standby.end(syscall.SIGTERM); status != 0 {
		t.Errorf("status %d", status)
	}
	r.settle()
	r.start().end(syscall.SIGKILL)
	r.settle()
	if !r.leads(leader) {
		t.Error("the leader has changed")
	}
	r.holds("SIGSTOP, SIGTERM and kill -9 of the standby", noGap)
}

func TestBothAreKilledAndOneComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	leader.end(syscall.SIGKILL)
	standby.end(syscall.SIGKILL)
	begin := time.Now()
	r.mark()
	r.start()
	r.settle()
	r.holds("kill -9 of both, one starts again", takeover+time.Since(begin))
}

func TestAlertsSurviveATakeover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	leader, standby := r.pair()
	r.mark()
	r.evaluate.Store(http.StatusServiceUnavailable)
	r.eventually("an alert is open", func() bool { return r.count("SELECT count(*) FROM fleet_alert WHERE status = 'OPEN'") == 1 })
	leader.end(syscall.SIGKILL)
	r.eventually("the standby leads", func() bool { return r.leads(standby) })
	r.eventually("the standby has checked", func() bool {
		return r.count("SELECT count(*) FROM service_health h, ops_worker_lease l WHERE h.service = 'evaluator' AND h.checked_at > l.acquired_at") == 1
	})
	if n := r.count("SELECT count(*) FROM fleet_alert"); n != 1 {
		t.Errorf("%d alerts after the take-over, want 1", n)
	}
	r.evaluate.Store(http.StatusOK)
	r.holds("kill -9 of the leader while an alert is open", takeover)
	if n := r.count("SELECT count(*) FROM fleet_alert"); n != 1 {
		t.Errorf("%d alerts in the end, want 1", n)
	}
}

func TestASpoolOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	spool := "SPOOL_DIR=" + t.TempDir()
	w := r.start(spool)
	r.settle()
	r.mark()
	r.proxy.set(func(p *proxy) { p.refuse = true })
	r.proxy.cut()
	r.eventually("cycles are buffered", func() bool { return strings.Contains(w.log.String(), "cycles are buffered") })
	r.lasting(4 * time.Second)
	stored := r.cycles()
	killed := time.Now()
	w.end(syscall.SIGKILL)
	w = r.start(spool) // the outage lasts
	r.eventually("the spool is found", func() bool { return strings.Contains(w.log.String(), "spool holds cycles of an earlier process") })
	r.lasting(leaseTTL / 2)
	r.proxy.heal()
	r.settle()
	if n := r.cycles() - stored; n < int(4*time.Second/interval) {
		t.Errorf("%d cycles were stored after the outage, it had at least %d", n, int(4*time.Second/interval))
	}
	// Nothing was measured from the kill on until the database was back.
	r.holds("kill -9 during an outage, with SPOOL_DIR", takeover+time.Since(killed))
}

func TestAStopDoesNotWaitForADatabaseThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*proxy){
		"swallowed": func(p *proxy) { p.set(func(p *proxy) { p.hole = true }) },
		"frozen":    func(p *proxy) { p.freeze() },
		"refused": func(p *proxy) {
			p.set(func(p *proxy) { p.refuse = true })
			p.cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			w := r.start("METRICS_COLLECTION_INTERVAL=20", "LEASE_TTL=60")
			r.eventually("the worker leads", func() bool { return r.leads(w) })
			fault(r.proxy)
			begin := time.Now()
			if status := w.end(syscall.SIGTERM); status != 0 {
				t.Errorf("status %d", status)
			}
			took := time.Since(begin)
			t.Logf("it took %s to stop", took)
			if took > 5*time.Second {
				t.Errorf("it took %s to stop", took)
			}
		})
	}
}

// Whoever is impatient, or a manager that sends two signals, does not keep the lease
// from being handed back.
func TestASecondSignalHandsBackTheLeaseToo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hanging := make(chan struct{})
	defer close(hanging)
	w := r.start("METRICS_COLLECTION_INTERVAL=20", "LEASE_TTL=60", "INGEST_HEALTH_URL="+r.hanging(hanging))
	r.eventually("the worker waits for a service", func() bool { return r.leads(w) })
	begin := time.Now()
	w.signal(syscall.SIGTERM)
	r.lasting(200 * time.Millisecond)
	if status := w.end(syscall.SIGTERM); status != 0 {
		t.Errorf("status %d", status)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if r.count("SELECT count(*) FROM ops_worker_lease WHERE expires_at > now()") != 0 {
		t.Error("the lease is still held")
	}
}

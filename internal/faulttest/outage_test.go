package faulttest

import (
	"math"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"ops_worker/internal/config"
)

// outage is two workers with a spool and a webhook each, before and after their database
// is away.
type outage struct {
	*rig
	hook            *webhook
	spool           string // the leader's
	leader, standby *worker
	killed          time.Time // the leader
}

func newOutage(t *testing.T) *outage {
	t.Helper()
	o := &outage{rig: newRig(t), hook: newWebhook(t), spool: t.TempDir()}
	o.leader = o.startWith(o.spool)
	o.eventually("the first worker leads", func() bool { return o.leads(o.leader) })
	o.standby = o.startWith(t.TempDir())
	o.settle()
	o.mark()
	return o
}

func (o *outage) startWith(spool string) *worker {
	o.t.Helper()
	return o.start("SPOOL_DIR="+spool, o.hook.setting())
}

// tells waits until the leader tells that it cannot reach the database.
func (o *outage) tells() heardObject {
	o.t.Helper()
	told := o.hook.awaits(o.rig, "opened", config.DatabaseService)
	if !told.DatabaseAway {
		o.t.Errorf("%+v does not say that the database is away", told)
	}
	return told
}

func (o *outage) kill() {
	o.t.Helper()
	o.leader.end(syscall.SIGKILL)
	o.killed = time.Now()
}

// only returns the only alert of a service, which is over, and of which everything has
// been told.
func (o *outage) only(service string) standingAlert {
	o.t.Helper()
	alerts, err := o.alerts()
	if err != nil {
		o.t.Fatal(err)
	}
	alerts = slices.DeleteFunc(alerts, func(a standingAlert) bool { return a.Service != service })
	if len(alerts) != 1 || !alerts[0].IsClosed {
		o.t.Fatalf("want one alert of %s, closed, got %+v", service, alerts)
	}
	a := alerts[0]
	closing := o.hook.awaits(o.rig, "closed", service)
	lasted := a.Closed.Sub(a.Opened)
	if closing.Key != a.Key() || !closing.Since.Equal(a.Opened) || math.Abs(closing.Duration-lasted.Seconds()) > 1e-6 {
		o.t.Errorf("%+v was told of %+v", closing, a)
	}
	if d := a.Details; d.Reason == "" || !d.ResolvedAt.Equal(a.Closed) || math.Abs(d.Duration-lasted.Seconds()) > 1e-3 {
		o.t.Errorf("details %+v of %s, which closed at %s", d, a.Key(), a.Closed)
	}
	return a
}

func TestTheLeaderIsKilledInAnOutageAndComesBack(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	var database, service, again heardObject
	o.halted(syscall.SIGQUIT, func() {
		database = o.tells()
		o.evaluate.Store(http.StatusServiceUnavailable)
		service = o.hook.awaits(o.rig, "opened", "evaluator")
		o.evaluate.Store(http.StatusOK)
		again = o.hook.awaits(o.rig, "closed", "evaluator")
		o.kill()
		o.leader = o.startWith(o.spool)
		// Or it might take over, with what it has seen of the outage itself.
		o.standby.signal(syscall.SIGSTOP)
	})
	o.eventually("who came back leads", func() bool { return o.leads(o.leader) })
	o.standby.signal(syscall.SIGCONT)
	o.holds("kill -9 of the leader in an outage, with SPOOL_DIR, and its return", takeover+time.Since(o.killed))
	o.tellsOfEveryAlert(o.hook)
	if a := o.only(config.DatabaseService); !a.Opened.Equal(database.Since) || a.Key() != database.Key || a.Closed.Before(o.killed) {
		t.Errorf("the alert is from %s to %s, told was %+v", a.Opened, a.Closed, database)
	}
	if a := o.only("evaluator"); !a.Opened.Equal(service.Since) || a.Key() != service.Key || again.Key != service.Key || !a.Closed.Before(o.killed) {
		t.Errorf("the alert is from %s to %s, told was %+v", a.Opened, a.Closed, service)
	}
	if unclosed := o.hook.unclosed(); len(unclosed) > 0 {
		t.Errorf("%q were never closed", unclosed)
	}
}

func TestTheLeaderIsKilledInAnOutageAndTheStandbyTakesOver(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	var told heardObject
	began := time.Now()
	o.halted(syscall.SIGQUIT, func() {
		told = o.tells()
		o.kill()
		// What is shorter than a health check's interval is no alert of a standby.
		o.lasting(time.Until(began.Add(2*healthInterval + leaseTTL)))
	})
	back := time.Now()
	o.eventually("the standby leads", func() bool { return o.leads(o.standby) })
	o.within(righting, "the standby has recorded the outage", func() bool {
		return o.counts(1, "SELECT count(*) FROM fleet_alert WHERE fingerprint = 'system-health:postgres'")
	})
	o.holds("kill -9 of the leader in an outage of two health checks", takeover+time.Since(began))
	o.tellsOfEveryAlert(o.hook)
	a := o.only(config.DatabaseService)
	// A standby looks once a second, and so a second late, or two on a loaded machine.
	if late := a.Opened.Sub(began); late < -time.Second || late > 3*time.Second || a.Closed.Sub(back).Abs() > 3*time.Second {
		t.Errorf("the standby's alert is from %s to %s, the outage was from %s to %s", a.Opened, a.Closed, began, back)
	}
	// The leader alone knows what it told.
	if unclosed := o.hook.unclosed(); !slices.Equal(unclosed, []string{told.Key}) {
		t.Errorf("not closed are %q, want what the leader told: %s", unclosed, told.Key)
	}
	o.startWith(o.spool)
	o.within(righting, "the leader closes what it told, once it is back", func() bool { return o.hook.has("closed", told.Key) })
	if n := o.count("SELECT count(*) FROM fleet_alert"); n != 1 {
		t.Errorf("%d alerts in the end, want 1", n)
	}
}

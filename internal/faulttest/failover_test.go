package faulttest

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/internal/ptytest"
	"ops_worker/internal/status"
)

// status runs the command on a database, and returns its report and exit status.
func (r *rig) status(database string) (report status.Report, code int) {
	r.t.Helper()
	command := exec.Command(binary, "status", "--json")
	command.Env = r.statusEnvironment(database)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err == nil {
		err = json.Unmarshal(output, &report)
	}
	if err != nil && command.ProcessState == nil {
		r.t.Fatal(err)
	}
	return report, command.ProcessState.ExitCode()
}

func (r *rig) statusEnvironment(database string) []string {
	return append([]string{"DATABASE_URL=" + database, "STATE_DIR=" + r.t.TempDir(), "DB_CONNECT_TIMEOUT=1",
		"HEALTH_CHECK_INTERVAL=" + healthInterval.String(), "TERM=xterm"}, r.services...)
}

func hasNotice(report status.Report, kind status.NoticeKind) bool {
	for _, n := range report.Notices {
		if n.Kind == kind {
			return true
		}
	}
	return false
}

// The primary dies, its standby is promoted, and the same address leads there:
// status is right at every step, of itself and on a terminal that watches, with
// nothing but the database to ask.
func TestStatusDuringAFailover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.start()
	r.settle()
	r.within(righting, "the services were checked", func() bool {
		return r.counts(3, "SELECT count(*) FROM service_health")
	})
	standby := r.standby()

	terminal := ptytest.New(t)
	watch := exec.Command(binary, "status", "--watch", "--every", "1s")
	watch.Env = r.statusEnvironment(r.database.String())
	watch.Stdin, watch.Stdout, watch.Stderr = terminal.File, terminal.File, terminal.File
	watch.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- watch.Wait() }()
	t.Cleanup(func() { _ = watch.Process.Kill() }) // which has ended by then

	// On the standby: the same, and that it is one.
	r.eventually("the standby follows", func() bool {
		report, code := r.status(standby.URL("iotcloud"))
		return code == 0 && report.Database.Standby && report.Database.ReplayLagSeconds != nil && *report.Database.ReplayLagSeconds < 5 &&
			hasNotice(report, status.StandbyNotice) && len(report.Notices) == 1 && len(report.Unreadable) == 0 &&
			report.Leader != nil && report.Leader.Held && len(report.Services) == 3 && len(report.Series) > 4
	})
	// On the primary: nothing to complain of, but where this machine is late.
	var report status.Report
	var code int
	well := func() bool {
		report, code = r.status(r.database.String())
		return code == 0 && !report.Database.Standby && len(report.Notices) == 0 && len(report.Unreadable) == 0 &&
			report.Leader != nil && report.Leader.Held && report.Leader.CyclesBehind < 4
	}
	r.eventually("status has nothing to complain of", well)
	before := *report.Leader
	shows := func(texts ...string) {
		t.Helper()
		terminal.Redrawn(t, watch.Process, strings.Join(texts, " and "), func(screen string) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(screen, text) })
		})
	}
	shows("primary", before.Holder)

	// Nobody answers: an error, and the last reading stays.
	if err := r.server.Halt(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if _, code := r.status(r.database.String()); code != 1 {
		t.Errorf("without a primary: exit status %d", code)
	}
	shows("this is the reading of", "/iotcloud as ", before.Holder)

	// The address leads to the standby, which is not promoted yet: it can be read, and
	// the lease runs out.
	r.proxy.set(func(p *proxy) { p.upstream = standby.Address() })
	r.proxy.cut()
	shows("hot standby", "no worker is known to lead: the lease of "+before.Holder+" expired")
	report, code = r.status(r.database.String())
	if code != 0 || !report.Database.Standby || !hasNotice(report, status.StandbyNotice) || !hasNotice(report, status.NoLeaderNotice) || report.Leader == nil || report.Leader.Held {
		t.Errorf("before the promotion: exit status %d, %+v", code, report)
	}

	// Promoted: the worker goes on there, and nothing is left to say.
	var err error
	if r.direct, err = pgxpool.New(t.Context(), standby.URL("iotcloud")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.direct.Close)
	r.exec("SELECT pg_promote()")
	r.eventually("the worker leads again", func() bool { return r.leads(w) })
	r.settle()
	r.within(righting, "status has nothing to complain of", well)
	terminal.Redrawn(t, watch.Process, "nothing to complain of", func(screen string) bool {
		return strings.Contains(screen, ", primary") && strings.Contains(screen, before.Holder) && !strings.Contains(screen, "! ")
	})

	terminal.Press(t, "q")
	if err := <-exited; err != nil {
		t.Errorf("watch: %v", err)
	}
}

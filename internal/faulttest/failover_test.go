package faulttest

import (
	"encoding/json"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

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
		"HEALTH_CHECK_INTERVAL=" + healthInterval.String()}, r.services...)
}

func hasNotice(report status.Report, kind string) bool {
	for _, n := range report.Notices {
		if n.Kind == kind {
			return true
		}
	}
	return false
}

// The primary dies, its standby is promoted, and the same address leads there:
// status is right at every step, with nothing but the database to ask.
func TestStatusDuringAFailover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	w := r.start()
	r.settle()
	r.within(righting, "the services were checked", func() bool {
		return r.counts(3, "SELECT count(*) FROM service_health")
	})
	standby := r.standby()

	// On the standby: the same, and that it is one.
	r.eventually("the standby follows", func() bool {
		report, code := r.status(standby.URL("iotcloud"))
		return code == 0 && report.Database.Standby && report.Database.ReplayLagSeconds != nil && *report.Database.ReplayLagSeconds < 5 &&
			hasNotice(report, "standby") && len(report.Notices) == 1 && len(report.Unreadable) == 0 &&
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
	// Nobody answers: an error, and the last reading stays.
	if err := r.server.Halt(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if _, code := r.status(r.database.String()); code != 1 {
		t.Errorf("without a primary: exit status %d", code)
	}

	// The address leads to the standby, which is not promoted yet: it can be read, and
	// the lease runs out.
	r.proxy.set(func(p *proxy) { p.upstream = standby.Address() })
	r.proxy.cut()
	r.eventually("the standby says that the lease has expired", func() bool {
		report, code = r.status(r.database.String())
		return code == 0 && report.Database.Standby && hasNotice(report, "standby") && hasNotice(report, "no_leader") &&
			report.Leader != nil && !report.Leader.Held && report.Leader.Holder == before.Holder
	})

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
}

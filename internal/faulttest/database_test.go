package faulttest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"ops_worker/internal/pgtest"
)

// away is how long a fault of the database lasts: longer than the lease, so that
// a standby could take over if it did not know better.
const away = 2 * leaseTTL

func TestTheDatabaseRestarts(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"restart": syscall.SIGINT, "immediate stop": syscall.SIGQUIT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			leader, _ := r.pair()
			r.mark()
			r.halted(signal, func() { r.lasting(away) })
			r.holds(fmt.Sprintf("%s of the database, %s", name, away), noGap)
			if !r.leads(leader) {
				t.Error("the leader, who had the cycles, has lost its lease")
			}
		})
	}
}

func TestTheDatabaseRefusesWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pair()
	r.mark()
	r.refuseWrites("25006")
	r.lasting(away)
	r.acceptWrites()
	r.holds(fmt.Sprintf("the database is read-only, %s", away), noGap)
}

func TestEverySessionIsTerminated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.pair()
	r.mark()
	for range 20 {
		r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ops_worker'")
		r.lasting(interval)
	}
	r.holds("pg_terminate_backend of every session, 20 times", noGap)
}

func TestEveryConnectionSlotIsTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// A role's limit raises the server's own error (53300), and leaves the test
	// its connections.
	r.exec("CREATE ROLE limited LOGIN PASSWORD 'limited' IN ROLE pulse_operator")
	r.exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO limited")
	r.exec("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO limited")
	r.database.User = url.UserPassword("limited", "limited")
	r.pair()
	r.mark()
	r.exec("ALTER ROLE limited CONNECTION LIMIT 0")
	r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'limited'")
	r.lasting(away)
	r.exec("ALTER ROLE limited CONNECTION LIMIT -1")
	r.holds(fmt.Sprintf("no connection slot is left, %s", away), noGap)
}

func TestTheDiskIsFull(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a small file system to fill needs root")
	}
	r := newRig(t)
	disk := t.TempDir()
	if output, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m,mode=0700,uid="+strconv.Itoa(r.server.UID()), "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("no small file system to be had here: %v: %s", err, output)
	}
	t.Cleanup(func() {
		if output, err := exec.Command("umount", "-l", disk).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, output)
		}
	})
	if err := os.Chmod(filepath.Dir(disk), 0o755); err != nil {
		t.Fatal(err)
	}
	r.exec(fmt.Sprintf("CREATE TABLESPACE small LOCATION '%s'", disk))
	r.exec("ALTER TABLE system_metrics SET TABLESPACE small")
	r.pair()
	r.mark()
	// The table's last page has room for some rows yet; a table of its own
	// takes all else.
	filler := filepath.Join(disk, "filler")
	if output, err := exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=64k").CombinedOutput(); err == nil {
		t.Fatalf("the disk is not full: %s", output)
	}
	r.eventually("the table cannot grow", func() bool {
		before := r.cycles()
		r.lasting(2 * interval)
		return r.cycles() == before
	})
	r.lasting(away)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	r.holds(fmt.Sprintf("the disk is full, %s", away), noGap)
}

func TestTheNetworkFails(t *testing.T) {
	for name, fault := range map[string]func(*rig){
		"is slow": func(r *rig) {
			r.proxy.set(func(p *proxy) { p.latency = 15 * time.Millisecond })
			r.lasting(away)
		},
		"is cut": func(r *rig) {
			r.proxy.set(func(p *proxy) { p.refuse = true })
			r.proxy.cut()
			r.lasting(away)
		},
		"swallows everything": func(r *rig) {
			r.proxy.set(func(p *proxy) { p.hole = true })
			r.lasting(away)
		},
		"leaves connections half open": func(r *rig) {
			r.proxy.freeze()
			r.lasting(away)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.pair()
			r.mark()
			fault(r)
			r.proxy.heal()
			r.holds(fmt.Sprintf("the network %s, %s", name, away), noGap)
		})
	}
}

func TestThroughPgBouncerThatRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bouncer := pgtest.NewPgBouncer(t, r.server.URL("iotcloud"), "transaction", "server_reset_query = DISCARD ALL\ndefault_pool_size = 5")
	address, err := url.Parse(bouncer.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.database = address
	r.pair()
	r.mark()
	for range 3 {
		bouncer.Stop()
		r.lasting(leaseTTL / 2)
		bouncer.Start(t)
		r.settle()
	}
	r.holds("PgBouncer restarts, 3 times", noGap)
}

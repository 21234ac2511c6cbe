package faulttest

import (
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// newest is how old the newest sample of a metric is; an hour where there is none.
func (r *rig) newest(metric string) time.Duration {
	ms, err := r.tryCount(`SELECT coalesce((SELECT extract(epoch FROM clock_timestamp() - max(time)) * 1000 FROM system_metrics
		WHERE metric_name = $1), 3600000)::bigint`, metric)
	if err != nil {
		return time.Hour
	}
	return time.Duration(ms) * time.Millisecond
}

// A table that takes long costs its own numbers their pace, and no cycle; also while
// the network fails, and when the worker stops in the middle of it.
func TestATableThatTakesLong(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("ALTER TABLE device_state RENAME TO devices")
	r.exec("CREATE VIEW device_state AS SELECT d.* FROM devices d CROSS JOIN (SELECT pg_sleep(2)) slow")
	r.exec("INSERT INTO devices (tenant_id, device_id, site_id, status) VALUES ('t', 'd', 's', 'ONLINE')")
	w := r.start()
	r.mark()
	counted := func() int {
		n, err := r.tryCount("SELECT count(*) FROM system_metrics WHERE metric_name = 'devices_online' AND value = 1")
		if err != nil {
			return 0
		}
		return n
	}
	r.eventually("the devices are counted", func() bool { return counted() >= 3 })
	r.holds("a table that takes long", time.Second)

	r.proxy.set(func(p *proxy) { p.hole = true })
	r.lasting(3 * time.Second)
	r.proxy.set(func(p *proxy) { p.hole = false })
	r.proxy.cut()
	before := counted()
	r.eventually("the devices are counted again", func() bool { return counted() >= before+2 })
	r.holds("a table that takes long, and a network that swallows", 2*time.Second)
	if text := w.log.String(); strings.Contains(text, "aggregate failed") {
		t.Error(text)
	}

	busy := func() int {
		return r.count("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%device_state%' AND pid <> pg_backend_pid()")
	}
	r.eventually("the devices are being counted", func() bool { return busy() == 1 })
	begin := time.Now()
	w.end(syscall.SIGTERM)
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("it took %s to stop", took)
	}
	r.within(time.Second, "the server counts on for nobody", func() bool { return busy() == 0 })
}

// What the platform has is counted on the standby, and nowhere else while that is
// away.
func TestAStandbyThatCounts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	standby := r.standby()
	onStandby, err := pgxpool.New(t.Context(), standby.URL("iotcloud"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(onStandby.Close)
	path := newProxy(t, standby.Address())
	address, err := url.Parse(standby.URL("iotcloud"))
	if err != nil {
		t.Fatal(err)
	}
	address.Host = path.address()

	w := r.start("AGGREGATE_DATABASE_URL=" + address.String())
	r.settle()
	r.eventually("the standby's lag is a sample", func() bool { return r.newest("standby_lag_seconds") < time.Second })
	for _, metric := range []string{"replication_lag_bytes", "wal_bytes"} {
		r.eventually(metric+" is a sample", func() bool { return r.newest(metric) < time.Hour })
	}
	r.exec("INSERT INTO device_state (tenant_id, device_id, site_id, status) VALUES ('t', 'd', 's', 'ONLINE')")
	r.eventually("the device is counted", func() bool {
		n, err := r.tryCount("SELECT count(*) FROM system_metrics WHERE metric_name = 'devices_online' AND value = 1")
		return err == nil && n > 0
	})
	// It counts what the standby knows, and says how old that is.
	if _, err := onStandby.Exec(t.Context(), "SELECT pg_wal_replay_pause()"); err != nil {
		t.Fatal(err)
	}
	r.exec("INSERT INTO device_state (tenant_id, device_id, site_id, status) VALUES ('t', 'e', 's', 'ONLINE')")
	r.eventually("the lag shows", func() bool {
		n, err := r.tryCount("SELECT count(*) FROM system_metrics WHERE metric_name = 'standby_lag_seconds' AND value > 1")
		return err == nil && n > 0
	})
	if n := r.count("SELECT count(*) FROM system_metrics WHERE metric_name = 'devices_online' AND value > 1"); n > 0 {
		t.Error("the devices are counted on the primary")
	}
	if _, err := onStandby.Exec(t.Context(), "SELECT pg_wal_replay_resume()"); err != nil {
		t.Fatal(err)
	}

	for name, fault := range map[string]func(*proxy){
		"swallows": func(p *proxy) { p.hole = true },
		"refuses":  func(p *proxy) { p.refuse = true },
	} {
		r.mark()
		path.set(fault)
		path.cut()
		r.lasting(5 * time.Second)
		if age := r.newest("devices_online"); age < 3*time.Second {
			t.Errorf("a standby that %s: the newest count is %s old", name, age)
		}
		path.set(func(p *proxy) { p.hole, p.refuse = false, false })
		path.cut()
		r.eventually("the standby counts again", func() bool { return r.newest("devices_online") < time.Second })
		r.holds("a standby that "+name, time.Second)
	}
	text := w.log.String()
	if !strings.Contains(text, "the standby does not answer, the platform's aggregates pause") || strings.Contains(text, "aggregate failed") {
		t.Error(text)
	}
}

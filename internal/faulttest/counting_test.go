package faulttest

import (
	"strings"
	"syscall"
	"testing"
	"time"
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

// What the server knows of a standby behind it is there while there is one.
func TestAStandbyBehindTheServer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.standby()
	r.start()
	for _, metric := range []string{"replication_lag_bytes", "replication_lag_seconds", "wal_bytes"} {
		r.eventually(metric+" is a sample", func() bool { return r.newest(metric) < time.Hour })
	}
}

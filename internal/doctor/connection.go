package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
)

func checkSettings(_ context.Context, r *run, f *findings) error {
	if r.settings != nil {
		var wrong *config.Error
		if !errors.As(r.settings, &wrong) {
			return r.settings
		}
		for _, problem := range wrong.Problems {
			f.fail("correct the environment; the README lists every variable", "%s", problem)
		}
		return nil
	}
	c := r.cfg
	for _, warning := range c.Warnings {
		f.warn("", "%s", warning)
	}
	if err := c.InPlatformWorkersPlace(); err != nil {
		f.fail(config.PlatformWorkerAdvice, "%s", err)
	}
	retention, alerts := "for ever", "off"
	if c.MetricsRetention > 0 {
		retention = "for " + age(c.MetricsRetention)
	}
	if c.SystemAlerts {
		alerts = "on"
	}
	f.note("health every %s, metrics every %s, samples kept %s, system alerts %s", age(c.HealthInterval), age(c.MetricsInterval), retention, alerts)
	names := make([]string, len(r.targets))
	for i, t := range r.targets {
		names[i] = t.Name
	}
	f.note("monitored: %s", strings.Join(names, ", "))
	var unset []string
	for _, s := range config.PlatformServices() {
		if !r.monitors(s.Name) {
			unset = append(unset, s.Name+" ("+s.Variable+")")
		}
	}
	if len(unset) > 0 {
		f.note("not monitored, as unset: %s", strings.Join(unset, ", "))
	}
	return nil
}

func checkConnection(ctx context.Context, r *run, f *findings) error {
	if r.pool == nil {
		return errors.New("the database's URL is not usable")
	}
	target := db.Target(r.pool.Config().ConnConfig.Config)
	began := time.Now()
	conn, err := r.pool.Acquire(ctx)
	if err == nil {
		defer conn.Release()
		// No transaction yet: a pooler in statement mode allows none.
		r.server, err = db.New(conn).DoctorServer(ctx)
	}
	if err != nil {
		r.unusable = "there is no connection to the database"
		reason := "no answer within " + r.limits.check.String()
		if !errors.Is(err, context.DeadlineExceeded) && !pgconn.Timeout(err) {
			reason = humanize.OneLine(db.RootCause(err).Error())
		}
		f.fail(connectionAdvice(err), "%s: %s", target, reason)
		return nil
	}
	r.unusable = ""
	r.link = linkOf(conn.Conn().PgConn())
	f.note("%s answers, connected in %s", target, latency(time.Since(began)))
	if r.server.Standby {
		f.fail("point DATABASE_URL or PG_HOST to the primary", "this server is a standby: nothing can be written")
	}
	return nil
}

func connectionAdvice(err error) string {
	var pgErr *pgconn.PgError
	var dnsErr *net.DNSError
	switch {
	case errors.As(err, &pgErr):
		switch pgErr.Code {
		case "28P01", "28000":
			return "check the user and the password (DATABASE_URL, or PG_USER and PG_PASS), and pg_hba.conf or the pooler's user list"
		case "3D000":
			return "check the database's name (DATABASE_URL or PG_DB)"
		case "53300":
			return "no connection is free: raise max_connections or lower the pools of the services"
		}
		return "the server refuses: see its log, and the pooler's where there is one"
	case errors.As(err, &dnsErr):
		return "check the host's name (DATABASE_URL or PG_HOST), and that both are on one network"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check host and port (DATABASE_URL, or PG_HOST and PG_PORT) and that it runs"
	}
	return "check host and port (DATABASE_URL, or PG_HOST and PG_PORT), the network between, and TLS (sslmode)"
}

func checkVersion(_ context.Context, r *run, f *findings) error {
	switch v := r.server.VersionNum; {
	case v < 130000:
		f.fail("upgrade to PostgreSQL 15 or later", "PostgreSQL %s: before 13 there is no gen_random_uuid(), which a default of integrations calls", r.server.Version)
	case v < 150000:
		f.warn("upgrade to PostgreSQL 15 or later when the platform can",
			"PostgreSQL %s: before 15 a view knows no security_invoker, so those that stand in for dropped tables belong to pulse_operator and only that role may read them", r.server.Version)
	default:
		f.note("PostgreSQL %s", r.server.Version)
	}
	return nil
}

func checkEncryption(_ context.Context, r *run, f *findings) error {
	if r.link.tls {
		f.note("TLS from here to %s", r.link.remote)
	} else if remote := r.link.remote; isPublic(remote) {
		f.warn("add sslmode=verify-full to DATABASE_URL", "no TLS from here to %s, which is a public address: the samples, and perhaps the password, can be read on the way", remote)
	} else {
		f.note("no TLS from here to %s, a local or private address", remote)
	}
	// Behind a pooler this is the pooler's own link.
	switch {
	case r.server.Ssl:
		f.note("the server's side of its connection: %s", r.server.SslVersion)
	case r.link.tls:
		f.note("the server's side of its connection: no TLS, so the pooler between ends it")
	}
	return nil
}

// isPublic reports whether an address is neither of this machine nor of a
// private network.
func isPublic(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip, ok := netip.AddrFromSlice(tcp.IP)
	ip = ip.Unmap()
	return ok && !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast()
}

// A pooler answers its clients itself, so the process id that it gives a client
// at the start is made up: where it differs from pg_backend_pid(), somebody
// stands in between. Addresses would not tell: one that is translated on the
// way (a published port, a tunnel) differs just the same.
//
// In transaction mode a client has a server process for a transaction only. Of
// a client's transactions in a row two may still get the same process, as an
// idle pooler hands out the one it has just got back; so a second client holds
// a transaction open meanwhile. A process that serves both, or a client that
// changes processes, is what session mode never shows.
//
// A setting that does not survive would tell it too, but where it does survive,
// it would be left in a process that others use.
func checkPooler(ctx context.Context, r *run, f *findings) error {
	first, err := r.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer first.Release()
	home, err := r.backend(ctx, first)
	if err != nil && strings.Contains(err.Error(), "statement pooling") {
		r.unusable = "the pooler in between allows no transactions"
		f.fail("set pool_mode = transaction for this database in the pooler's settings",
			"a pooler in statement mode stands in between: every write here is a transaction, and it refuses them")
		return nil
	}
	if err != nil {
		return err
	}
	if home == first.Conn().PgConn().PID() {
		seen := net.JoinHostPort(r.server.ClientAddress, strconv.Itoa(int(r.server.ClientPort)))
		switch {
		case r.server.ClientAddress == "":
			f.note("none: a direct connection over a Unix socket")
		case r.link.local.String() == seen:
			f.note("none: a direct connection")
		default:
			f.note("none: a direct connection, with its address translated on the way (the server sees another than %s)", r.link.local)
		}
		return nil
	}

	second, err := r.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer second.Release()
	shared, err := r.sharesBackends(ctx, first, second, home)
	switch {
	case pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded):
		f.warn("give the pooler room: a pool_size of at least PG_POOL_MAX in session mode, 2 or more in transaction mode",
			"a pooler (PgBouncer or the like) stands in between, and had no second server connection for a second client: its mode is not known")
	case err != nil:
		return err
	case shared:
		f.note("a pooler (PgBouncer or the like) in transaction mode, which is what the worker is made for")
	default:
		f.note("a pooler (PgBouncer or the like) in session mode: it works, and holds a server connection for each of the worker's")
	}
	return nil
}

// sharesBackends reports whether a pooler lends server processes by the
// transaction. home is the process of first's latest one.
func (r *run) sharesBackends(ctx context.Context, first, second *pgxpool.Conn, home uint32) (bool, error) {
	// Three times: a pooler that goes round its idle processes needs as many.
	moved := func() (bool, error) {
		for range 3 {
			pid, err := r.backend(ctx, first)
			if err != nil || pid != home {
				return err == nil, err
			}
		}
		return false, nil
	}
	if yes, err := moved(); yes || err != nil {
		return yes, err
	}
	// A session pooler with no process left lets the second client wait.
	held, cancel := context.WithTimeout(ctx, r.limits.check/3)
	defer cancel()
	shared := false
	err := r.readOn(held, second, func(q *db.Queries) error {
		pid, err := q.DoctorBackend(held)
		if err != nil || uint32(pid) == home {
			shared = err == nil
			return err
		}
		shared, err = moved()
		return err
	})
	if shared || err != nil {
		return shared, err
	}
	return moved()
}

// backend is the server process that serves a transaction on conn.
func (r *run) backend(ctx context.Context, conn *pgxpool.Conn) (pid uint32, err error) {
	err = r.readOn(ctx, conn, func(q *db.Queries) error {
		p, err := q.DoctorBackend(ctx)
		pid = uint32(p)
		return err
	})
	return pid, err
}

// How far this machine's clock may be from the database's. The samples carry
// the database's time whatever this one says; but logs, and the services that
// go by their own clock, are then hard to lay side by side, and a clock that is
// a minute off is seldom off alone.
const (
	warnSkew = time.Second
	failSkew = time.Minute
)

func checkClock(ctx context.Context, r *run, f *findings) error {
	var skew, within time.Duration
	err := r.read(ctx, func(q *db.Queries) error {
		for i := range 5 {
			sent, begin := r.now(), time.Now()
			remote, err := q.Now(ctx)
			if err != nil {
				return err
			}
			// The database read its clock somewhere in the round trip; the
			// quickest one says it most exactly.
			half := time.Since(begin) / 2
			if i == 0 || half < within {
				skew, within = remote.Sub(sent.Add(half)), half
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	off := skew.Abs()
	const advice = "set both clocks by NTP (timedatectl, chronyc tracking)"
	const format = "the database's clock is %s %s this machine's (within %s)"
	switch sure := off - within; {
	case sure > failSkew:
		f.fail(advice, format, age(off), direction, latency(within))
	case sure > warnSkew:
		f.warn(advice, format, age(off), direction, latency(within))
	default:
		f.note("the database's clock and this machine's agree to %s", latency(max(off, within, 100*time.Microsecond)))
	}
	return nil
}

// latency is a short duration for people.
func latency(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// age is a longer one.
func age(d time.Duration) string { return humanize.Age(d) }

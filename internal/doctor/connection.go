package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

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
			f.fail("correct the environment; docs/configuration.md lists every variable", "%s", problem)
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
		retention = "for " + humanize.Age(c.MetricsRetention)
	}
	if c.SystemAlerts {
		alerts = "on"
	}
	f.note("health every %s, metrics every %s, samples kept %s, system alerts %s", humanize.Age(c.HealthInterval), humanize.Age(c.MetricsInterval), retention, alerts)
	monitored := c.Monitored()
	f.note("monitored: %s", strings.Join(monitored, ", "))
	var unset []string
	for _, s := range config.PlatformServices() {
		if !slices.Contains(monitored, s.Name) {
			unset = append(unset, s.Name+" ("+s.Variable+")")
		}
	}
	if len(unset) > 0 {
		f.note("not monitored, as unset: %s", strings.Join(unset, ", "))
	}
	return nil
}

// connection is what the check of that name learns.
type connection struct {
	stands bool
	server db.DoctorServerRow
	remote net.Addr // what the client is connected to
	tls    bool
	pooled bool // a pooler answers, not the server
}

func checkConnection(ctx context.Context, r *run, f *findings) error {
	pool := r.database.pool
	if pool == nil {
		return errors.New("the database's URL is not usable")
	}
	target := db.Target(pool.Config().ConnConfig.Config)
	began := time.Now()
	conn, err := pool.Acquire(ctx)
	if err == nil {
		defer conn.Release()
		r.connection.server, err = db.New(conn).DoctorServer(ctx)
	}
	if err != nil {
		reason := "no answer within " + r.limits.check.String()
		if !errors.Is(err, context.DeadlineExceeded) && !pgconn.Timeout(err) {
			reason = db.RootCause(err).Error()
		}
		f.fail(connectionAdvice(err), "%s: %s", target, reason)
		return nil
	}
	f.note("%s answers, connected in %s", target, latency(time.Since(began)))
	client := conn.Conn().PgConn()
	socket := client.Conn()
	_, encrypted := socket.(*tls.Conn)
	r.connection.stands, r.connection.remote, r.connection.tls = true, socket.RemoteAddr(), encrypted
	// A pooler answers its clients itself, so the process id that it gives is none of
	// the server's.
	if r.connection.pooled = uint32(r.connection.server.Pid) != client.PID(); r.connection.pooled {
		f.note("through a pooler (PgBouncer or the like)")
	}
	if r.connection.server.Standby {
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

func checkEncryption(_ context.Context, r *run, f *findings) error {
	c := r.connection
	switch {
	case c.tls:
		f.note("TLS from here to %s", c.remote)
	case isPublic(c.remote):
		f.warn("add sslmode=verify-full to DATABASE_URL",
			"no TLS from here to %s, which is a public address: the samples, and perhaps the password, can be read on the way", c.remote)
	default:
		f.note("no TLS from here to %s, a local or private address", c.remote)
	}
	return nil
}

// isPublic reports whether an address is neither of this machine nor of a
// private network.
func isPublic(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback() && !tcp.IP.IsPrivate() && !tcp.IP.IsLinkLocalUnicast()
}

func checkVersion(_ context.Context, r *run, f *findings) error {
	server := r.connection.server
	if server.VersionNum < 150000 {
		f.fail("upgrade to PostgreSQL 15 or later", "PostgreSQL %s: before 15 a view knows no security_invoker, which those that stand in for dropped tables need", server.Version)
	} else {
		f.note("PostgreSQL %s", server.Version)
	}
	return nil
}

// checkConnections looks whether the server has room for the worker's pools, and
// lists who is connected.
func checkConnections(ctx context.Context, r *run, f *findings) error {
	var room db.DoctorConnectionsRow
	var sessions []db.DoctorSessionsRow
	err := r.database.read(ctx, func(q *db.Queries) (err error) {
		if room, err = q.DoctorConnections(ctx, r.cfg.ServiceName); err != nil {
			return err
		}
		sessions, err = q.DoctorSessions(ctx, applicationName(r.cfg))
		return err
	})
	if err != nil {
		return err
	}
	// Replicas on one machine share its address: there may be more.
	replicas := max(1, room.Replicas)
	pools := replicas * int64(r.cfg.Database.MaxConns)
	f.note("%d of %d are in use, %d of them by %s, which takes up to %d (%d × PG_POOL_MAX)",
		room.Used, room.Available, room.Own, r.cfg.ServiceName, pools, replicas)
	// A pooler has a limit of its own.
	if !r.connection.pooled && room.Used-room.Own+pools > room.Available {
		f.warn("raise max_connections, or lower PG_POOL_MAX or another service's pool", "there is no room for all of them")
	}
	for _, s := range sessions {
		f.note("%d x %s as %s from %s", s.Sessions, cmp.Or(humanize.OneLine(s.ApplicationName), "(no application_name)"),
			s.LoginRole, cmp.Or(s.ClientAddress, "a Unix socket or an address not shown"))
	}
	return nil
}

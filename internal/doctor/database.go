package doctor

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/config"
)

// database is the pool, and the limit of each statement.
type database struct {
	pool  *pgxpool.Pool // nil where the settings make none
	limit time.Duration
}

// maxConnections are one for the checks and one for the probe of the database.
const maxConnections = 2

// lockLimit is how long doctor waits for a lock: whoever holds one is at work. It keeps
// the worker out as well, so a check that meets it is a warning.
const (
	lockLimit   = time.Second
	lockedWords = "somebody holds a lock for longer than a second"
	// Whoever holds a lock is in a transaction, and the oldest that waits for nobody is
	// the first to suspect.
	lockedAdvice = "wait for the session that holds it, or end it with pg_terminate_backend(pid); it is in an old transaction: " +
		"SELECT pid, pg_blocking_pids(pid) AS waits_for, usename, application_name, state, xact_start FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL ORDER BY xact_start"
)

// applicationName tells doctor's own sessions from the worker's.
func applicationName(cfg config.Config) string { return cfg.ServiceName + "_doctor" }

// openDatabase makes the pool, which connects when it is first used.
func openDatabase(ctx context.Context, cfg config.Config, limit time.Duration) *database {
	options := db.OptionsFrom(cfg.Database, applicationName(cfg))
	options.MinConns, options.MaxConns = 0, maxConnections
	options.ConnectTimeout = min(options.ConnectTimeout, limit)
	// Without ctx's end, at which the pool would close before its users end. An error
	// would be one of the URL, which has been validated.
	pool, _ := db.Open(context.WithoutCancel(ctx), options)
	return &database{pool: pool, limit: limit}
}

// close does not wait for a server that hangs.
func (d *database) close() {
	if d.pool != nil {
		db.Close(d.pool)
	}
}

// ping is the probe of the database.
func (d *database) ping(ctx context.Context) error {
	if d.pool == nil {
		return errors.New("no connection")
	}
	_, err := db.New(d.pool).Now(ctx)
	return err
}

// tx runs fn in a transaction that is set up as the worker's are.
func (d *database) tx(ctx context.Context, options pgx.TxOptions, fn func(pgx.Tx) error) error {
	return db.Transaction(ctx, d.pool, options, db.Limits{Statement: d.limit, Lock: lockLimit}, fn)
}

// read runs fn in a read-only transaction that sees one snapshot.
func (d *database) read(ctx context.Context, fn func(*db.Queries) error) error {
	return d.tx(ctx, db.Snapshot, func(tx pgx.Tx) error { return fn(db.New(tx)) })
}

// errRolledBack ends a transaction whose writes the server has accepted.
var errRolledBack = errors.New("rolled back")

// try runs fn in a transaction that writes, and rolls it back. The error is fn's.
func (d *database) try(ctx context.Context, fn func(*db.Queries) error) error {
	err := d.tx(ctx, db.ReadWrite, func(tx pgx.Tx) error {
		if err := fn(db.New(tx)); err != nil {
			return err
		}
		return errRolledBack
	})
	if errors.Is(err, errRolledBack) {
		return nil
	}
	return err
}

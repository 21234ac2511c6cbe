package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
	"ops_worker/sql"
)

// samplesTable is the one of the worker's tables that TimescaleDB manages.
const samplesTable = "system_metrics"

// Timescale is TimescaleDB in one database. What it runs stands in sql/timescale,
// since sqlc cannot compile it: on plain PostgreSQL none of it exists.
type Timescale struct {
	Version string
	schema  string
}

// FindTimescale is nil on plain PostgreSQL.
func FindTimescale(ctx context.Context, q *db.Queries) (*Timescale, error) {
	row, err := q.TimescaleExtension(ctx)
	if db.IsNoRows(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Timescale{Version: row.Version, schema: pgx.Identifier{row.Schema}.Sanitize()}, nil
}

// NoTimescaleError is a server that has TimescaleDB, and a database that needs it before
// the worker makes a table: the platform's migrator makes a hypertable of
// system_metrics only while it is empty.
type NoTimescaleError struct{ Reason string }

func (e *NoTimescaleError) Error() string {
	return fmt.Sprintf("the server has TimescaleDB, this database does not have the extension yet, and the platform's migrator has not run: %s. "+
		"Run the migrator first, or as a superuser: CREATE EXTENSION timescaledb; --any-database goes on without it", e.Reason)
}

// ensureTimescale makes the extension where the server has it and the platform's
// migrator, which makes it too, has not run. It fails with a NoTimescaleError where it
// is not ours to make, unless tables of the worker stand already.
func (m *migrator) ensureTimescale(ctx context.Context) ([]Change, error) {
	wanted, early, err := m.wantsTimescale(ctx)
	if err != nil || !wanted {
		return nil, err
	}
	err = m.createTimescale(ctx)
	var refused *pgconn.PgError
	if err == nil {
		return []Change{{"timescaledb", created, "extension"}}, nil
	}
	if !errors.As(err, &refused) {
		return nil, fmt.Errorf("make the extension timescaledb: %w", err)
	}
	if !early || m.anyDatabase {
		return nil, nil
	}
	return nil, &NoTimescaleError{refused.Message}
}

// wantsTimescale reports whether the database could have TimescaleDB and has not,
// while nothing of the platform's stands; early is that nothing of the worker's does
// either.
func (m *migrator) wantsTimescale(ctx context.Context) (wanted, early bool, err error) {
	err = db.InTx(ctx, m.pool, db.ReadOnly, whileRunning, func(q *db.Queries) error {
		found, err := examine(ctx, q, m.anyDatabase)
		early = !found.ours
		if err != nil || found.platform || found.files > 0 {
			return err
		}
		wanted, err = q.TimescaleAvailable(ctx)
		return err
	})
	if err != nil {
		return false, false, fmt.Errorf("look at the database: %w", err)
	}
	return wanted, early, nil
}

// createTimescale makes the extension, on a connection of its own: TimescaleDB wants
// one that has run nothing else of it, and may end it.
func (m *migrator) createTimescale(ctx context.Context) error {
	config := m.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return db.Transaction(ctx, conn, db.ReadWrite, atStart, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public")
		return err
	})
}

// text is a statement of sql/timescale, for the schema that TimescaleDB is in.
func (t *Timescale) text(file string) (string, bool) {
	content, err := sql.Timescale.ReadFile("timescale/" + file + ".sql")
	return strings.ReplaceAll(string(content), "@extschema@", t.schema), err == nil
}

// conversion is the statement that makes a hypertable of a table, if one should
// be made.
func (t *Timescale) conversion(table string) (string, bool) { return t.text("hypertables/" + table) }

// ask runs a statement that answers one value.
func ask[T any](ctx context.Context, t *Timescale, q *db.Queries, file string, args ...any) (value T, err error) {
	statement, _ := t.text(file)
	err = q.Raw().QueryRow(ctx, statement, args...).Scan(&value)
	return value, err
}

// IsHypertable reports whether a table is one.
func (t *Timescale) IsHypertable(ctx context.Context, q *db.Queries, table string) (bool, error) {
	return ask[bool](ctx, t, q, "is_hypertable", table)
}

// Expirer is how system_metrics is kept from growing: by deletes of ours from a plain
// table, by whole chunks that we drop from a hypertable, or by TimescaleDB's own policy.
type Expirer struct {
	timescale *Timescale // nil on a plain table
	policy    bool
}

// FindExpirer finds out how samples expire in q's database.
func FindExpirer(ctx context.Context, q *db.Queries) (e Expirer, err error) {
	t, err := FindTimescale(ctx, q)
	if err != nil || t == nil {
		return e, err
	}
	hypertable, err := t.IsHypertable(ctx, q, samplesTable)
	if err != nil || !hypertable {
		return e, err
	}
	e.timescale = t
	e.policy, err = ask[bool](ctx, t, q, "has_retention_policy", samplesTable)
	return e, err
}

// The server's limits on removing samples: a batch where the pool has one connection
// keeps everything waiting, whole chunks take longer.
const (
	deleteLimit = 2 * time.Second
	dropLimit   = 10 * time.Second
)

// Hypertable reports whether system_metrics is one.
func (e Expirer) Hypertable() bool { return e.timescale != nil }

func (e Expirer) String() string {
	switch {
	case e.policy:
		return "a hypertable, whose samples a policy of TimescaleDB drops"
	case e.timescale != nil:
		return "a hypertable without a retention policy: the worker drops old chunks, which takes the table's owner"
	}
	return "a plain table: the worker deletes old samples"
}

// Limit is how long Expire may take.
func (e Expirer) Limit() time.Duration {
	if e.timescale != nil {
		return dropLimit
	}
	return deleteLimit
}

// Expire removes samples that are older than cutoff, of a plain table at most a batch;
// more tells that there may be more.
func (e Expirer) Expire(ctx context.Context, q *db.Queries, cutoff time.Time, batch int) (removed int64, more bool, err error) {
	switch {
	case e.policy:
	case e.timescale != nil:
		removed, err = ask[int64](ctx, e.timescale, q, "drop_chunks", cutoff)
	default:
		removed, err = q.DeleteExpiredSamples(ctx, db.DeleteExpiredSamplesParams{Cutoff: cutoff, BatchSize: int32(batch)})
		more = removed >= int64(batch)
	}
	return removed, more, err
}

package schema

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
)

var (
	atStart      = db.Limits{Statement: 4 * time.Minute, Lock: 4 * time.Minute} // another replica may migrate
	whileRunning = db.Limits{Statement: 30 * time.Second, Lock: 5 * time.Second}
)

// ensurePlatform makes sure of what the platform's system routes read: tables in
// their first form, views in the place of dropped ones, and the role. What
// stands is left as it is. It returns a change for each thing that it made or
// could not make; none of these keeps it from the others.
func ensurePlatform(ctx context.Context, pool *pgxpool.Pool, limits db.Limits, anyDatabase bool) ([]Change, error) {
	var e ensurer
	err := db.Transaction(ctx, pool, db.ReadWrite, limits, func(tx pgx.Tx) error {
		e = ensurer{tx: tx, q: db.New(tx), limits: limits, anyDatabase: anyDatabase}
		return e.run(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("make sure of the platform's tables and role: %w", err)
	}
	return e.changes, nil
}

// ensurer is one run of ensurePlatform, in one transaction.
type ensurer struct {
	tx          pgx.Tx
	q           *db.Queries
	limits      db.Limits
	anyDatabase bool
	server      db.DescribeServerRow
	timescale   *Timescale // nil on plain PostgreSQL
	stands      map[string]Relation
	changes     []Change
}

func (e *ensurer) run(ctx context.Context) (err error) {
	if err := e.q.LockSchema(ctx); err != nil {
		return err
	}
	if e.changes, err = settle(ctx, e.tx, e.anyDatabase); err != nil {
		return err
	}
	if e.server, err = e.q.DescribeServer(ctx); err != nil {
		return err
	}
	if e.timescale, err = FindTimescale(ctx, e.q); err != nil {
		return err
	}
	if err := e.look(ctx); err != nil {
		return err
	}
	// The role first; what it may read last, when all stands.
	for _, part := range []func(context.Context) error{e.ensureRole, e.ensureStandIns, e.ensureTables, e.ensureHypertable, e.ensureGrants} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look reads which relations stand now.
func (e *ensurer) look(ctx context.Context) error {
	stands, err := StandingRelations(ctx, e.q)
	e.stands = stands
	return err
}

// step runs statements behind a savepoint. Where the server refuses one, the
// change has failed, which is no error.
func (e *ensurer) step(ctx context.Context, done Change, statements ...string) error {
	err := pgx.BeginFunc(ctx, e.tx, func(savepoint pgx.Tx) error {
		for _, statement := range statements {
			if _, err := savepoint.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused):
		e.changes = append(e.changes, Change{done.Object, failed, done.Detail + ": " + refused.Message})
		return nil
	case err == nil:
		e.changes = append(e.changes, done)
	}
	return err
}

// ensureRole makes the operator's role, and lets the login role take it on. Only with
// BYPASSRLS: without it the routes would count 0 rows under the policies, silently, and
// the platform's migrator would find a role and leave it as it is.
func (e *ensurer) ensureRole(ctx context.Context) (err error) {
	before := len(e.changes)
	switch grant := "GRANT " + OperatorRole + " TO CURRENT_USER"; {
	case !e.server.OperatorExists:
		err = e.step(ctx, Change{OperatorRole, created, "role"}, "CREATE ROLE "+OperatorRole+" NOLOGIN BYPASSRLS", grant)
	case e.server.TakesOnOperator:
		return nil
	default:
		if e.server.VersionNum >= 160000 { // since when a membership may be without that
			grant += " WITH SET TRUE"
		}
		err = e.step(ctx, Change{OperatorRole, granted, "to the login role"}, grant)
	}
	if err != nil {
		return err
	}
	// The role belongs to the whole server: another database's worker may have made it
	// meanwhile, and it may not be ours to grant. Where it is needed, the aggregates and
	// doctor say so.
	e.server, err = e.q.DescribeServer(ctx)
	if err == nil && e.server.OperatorExists && (e.changes[before].Failed() || !e.server.TakesOnOperator) {
		e.changes = e.changes[:before]
	}
	return err
}

func (e *ensurer) ensureStandIns(ctx context.Context) error {
	for _, s := range StandIns() {
		stands, exists := e.stands[s.Name]
		if _, replaced := e.stands[s.Successor]; !replaced {
			continue
		}
		if exists {
			// It may be in use at any time, so it is only named, never dropped.
			if stands.MadeByWorker() && !stands.IsView() && !stands.Filled {
				e.changes = append(e.changes, Change{s.Name, failed, fmt.Sprintf(
					"a table that ops_worker made hides %s; if nothing uses it, DROP TABLE %s", s.Successor, s.Name)})
			}
			continue
		}
		// The view shows each reader what the table itself would.
		statements := []string{sqlFile("platform/stand_ins", s.Name), "ALTER VIEW " + s.Name + " SET (security_invoker = true)",
			"COMMENT ON VIEW " + s.Name + " IS '" + mark + "'"}
		if err := e.step(ctx, Change{s.Name, created, "view over " + s.Successor}, statements...); err != nil {
			return err
		}
	}
	return nil
}

func (e *ensurer) ensureTables(ctx context.Context) error {
	for _, name := range PlatformTables() {
		if _, exists := e.stands[name]; exists || succeeded(e.stands, name) {
			continue
		}
		statements := []string{sqlFile("platform/tables", name), "COMMENT ON TABLE " + name + " IS '" + mark + "'"}
		if err := e.step(ctx, Change{name, created, "table"}, statements...); err != nil {
			return err
		}
		if made := e.changes[len(e.changes)-1]; e.timescale != nil && !made.Failed() {
			if err := e.convert(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// ensureHypertable makes a hypertable of a system_metrics that is empty, on a database
// that got TimescaleDB after it. One with rows is locked for long by that: doctor and
// docs/operation.md have the statement.
func (e *ensurer) ensureHypertable(ctx context.Context) error {
	if e.timescale == nil {
		return nil
	}
	converted, err := e.timescale.IsHypertable(ctx, e.q, samplesTable)
	if err != nil || converted {
		return err
	}
	empty, err := e.q.SamplesEmpty(ctx)
	if err != nil || !empty {
		return err
	}
	return e.convert(ctx, samplesTable)
}

// convert makes a hypertable of an empty table, if it is to be one.
func (e *ensurer) convert(ctx context.Context, table string) error {
	statement, ok := e.timescale.conversion(table)
	if !ok {
		return nil
	}
	return e.step(ctx, Change{table, created, "hypertable"}, "SET LOCAL lock_timeout = '5s'", statement,
		fmt.Sprintf("SET LOCAL lock_timeout = %d", e.limits.Lock.Milliseconds()))
}

// ensureGrants lets the operator's role read what the routes read.
func (e *ensurer) ensureGrants(ctx context.Context) error {
	if !e.server.OperatorExists {
		return nil
	}
	if err := e.look(ctx); err != nil { // with what was just made
		return err
	}
	begin := len(e.changes)
	for _, name := range Relations() {
		r, exists := e.stands[name]
		if !exists || r.OperatorReads || r.IsIndex() {
			continue
		}
		if err := e.step(ctx, Change{name, granted, "SELECT to " + OperatorRole}, "GRANT SELECT ON "+name+" TO "+OperatorRole); err != nil {
			return err
		}
	}
	if len(e.changes) == begin {
		return nil
	}
	// GRANT without the right to grant is a warning, no error.
	if err := e.look(ctx); err != nil {
		return err
	}
	for i, c := range e.changes[begin:] {
		if !c.Failed() && !e.stands[c.Object].OperatorReads {
			e.changes[begin+i] = Change{c.Object, failed, fmt.Sprintf("GRANT SELECT ON %s TO %s: not ours to grant", c.Object, OperatorRole)}
		}
	}
	return nil
}

// dropStandIns takes back the views that the worker has made. The platform's
// tables stay, those that it made included: they may hold data by now.
func dropStandIns(ctx context.Context, tx pgx.Tx) (changes []Change, err error) {
	stands, err := StandingRelations(ctx, db.New(tx))
	if err != nil {
		return nil, err
	}
	for _, s := range StandIns() {
		if view := stands[s.Name]; view.IsView() && view.MadeByWorker() {
			if _, err := tx.Exec(ctx, "DROP VIEW "+s.Name); err != nil {
				return nil, fmt.Errorf("drop the view %s: %w", s.Name, err)
			}
			changes = append(changes, Change{s.Name, reverted, "view over " + s.Successor})
		}
	}
	return changes, nil
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

// refusal is a statement that the server would not run.
type refusal struct {
	statement schema.Statement
	role      string // that would run it
	err       *pgconn.PgError
}

// refusals are what the server says of every statement that the worker runs and of
// every read of the routes: its planner, and of the worker's writes in each cycle
// also a run that is rolled back.
func (r *run) refusals(ctx context.Context) ([]refusal, error) {
	return r.plans.get(func() ([]refusal, error) {
		var list []refusal
		plan := func(s schema.Statement, role string, ignored ...string) error {
			as, err := s.Plan(ctx, r.pool, r.limits.check, role)
			var refused *pgconn.PgError
			var wrongRole *schema.RoleError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &wrongRole) || !errors.As(err, &refused):
				return fmt.Errorf("plan what %s needs: %w", s.Use, err)
			case !slices.Contains(ignored, refused.Code):
				list = append(list, refusal{s, as, refused})
			}
			return nil
		}
		for _, s := range schema.WorkerStatements() {
			if r.runs(s) {
				if err := plan(s, ""); err != nil {
					return nil, err
				}
			}
		}
		roles, err := r.roles(ctx)
		if err != nil {
			return nil, err
		}
		stands, err := r.standing(ctx)
		if err != nil {
			return nil, err
		}
		for _, route := range schema.Routes {
			if _, exists := stands[route.If]; route.If != "" && !exists {
				continue
			}
			if route.Operator && roles.OperatorGranted {
				err = plan(route.Statement(), schema.OperatorRole)
			} else {
				// Of another role's rights nothing can be planned; its tables and
				// columns are the same.
				err = plan(route.Statement(), "", privilegeCode)
			}
			if err != nil {
				return nil, err
			}
		}
		if r.server.Standby {
			return list, nil
		}
		for _, trial := range schema.Trials() {
			use := func(refused refusal) bool { return refused.statement.Use == trial.Statement.Use }
			if !r.runs(trial.Statement) || slices.ContainsFunc(list, use) || slices.ContainsFunc(list, needsLease) {
				continue
			}
			err := trial.Run(ctx, r.pool, r.limits.check/5)
			var refused *pgconn.PgError
			switch {
			case err == nil || db.IsTimeout(err) || db.IsLocked(err):
			case !errors.As(err, &refused):
				return nil, fmt.Errorf("try what %s needs: %w", trial.Statement.Use, err)
			case refused.Code != privilegeCode: // of a sequence, which has its own finding
				list = append(list, refusal{trial.Statement, "", refused})
			}
		}
		return list, nil
	})
}

// needsLease reports whether a refusal is one of the lease, without which there is
// nothing to try.
func needsLease(refused refusal) bool { return refused.statement.Use == schema.ForLease }

// runs reports whether a worker with these settings runs a statement.
func (r *run) runs(s schema.Statement) bool { return r.cfg.DatabaseUses().Run(s) }

// The server's words for what a plan may lack. A policy that would hide rows is
// a matter of privilege too, and told apart by db.IsRowSecurity.
const (
	relationCode  = "42P01"
	columnCode    = "42703"
	privilegeCode = "42501"
)

// users lists what uses the same thing, in the order of first mention.
type users struct {
	order []string
	by    map[string][]string
}

func (n *users) add(what, use string) {
	if n.by == nil {
		n.by = map[string][]string{}
	}
	if n.by[what] == nil {
		n.order = append(n.order, what)
	}
	if !slices.Contains(n.by[what], use) {
		n.by[what] = append(n.by[what], use)
	}
}

func (n *users) text(what string) string {
	return "used by " + strings.Join(n.by[what], ", ")
}

// standing are the relations that stand of those that the worker or the routes
// use.
func (r *run) standing(ctx context.Context) (map[string]schema.Relation, error) {
	return r.relations.get(func() (stands map[string]schema.Relation, err error) {
		err = r.read(ctx, func(q *db.Queries) error {
			stands, err = schema.StandingRelations(ctx, q)
			return err
		})
		return stands, err
	})
}

// require skips a check whose tables are missing.
func (r *run) require(ctx context.Context, names ...string) error {
	stands, err := r.standing(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := stands[name]; !ok {
			return skip("there is no table %s", name)
		}
	}
	return nil
}

// checkTables reports what the planner misses: tables, columns, and whatever
// else makes a statement impossible.
func checkTables(ctx context.Context, r *run, f *findings) error {
	a, err := r.access(ctx)
	if err != nil {
		return err
	}
	pending := r.pending(ctx)
	advice := map[string]string{}
	var missing users
	for _, refused := range a.refusals {
		message := refused.err.Message
		switch {
		case refused.err.Code == privilegeCode || refused.err.Code == relationCode && pending:
			continue
		case refused.err.Code == relationCode:
			advice[message] = "restart the worker, or `ops-worker migrate up`: it makes what is missing, a view where a successor of the table stands"
		case refused.err.Code == columnCode:
			advice[message] = "run the platform's migrator to its end; the worker alters no table that stands"
		default:
			advice[message] = refused.advice()
		}
		missing.add(message, refused.statement.Use)
	}
	for _, message := range missing.order {
		f.fail(advice[message], "%s (%s)", message, missing.text(message))
	}
	if coming := schema.Missing(a.stands); pending && len(coming) > 0 {
		f.warn("nothing, if the worker is about to be started: it makes what is missing; else `ops-worker migrate up`",
			"not there yet: %s", strings.Join(coming, ", "))
	}
	if f.result == OK {
		f.note("every statement of the worker and of the routes finds its tables and columns")
	}
	return nil
}

// What the server's words about a value name, where they are English.
var (
	enumValue  = regexp.MustCompile(`enum (\S+): "([^"]*)"`)
	typedOther = regexp.MustCompile(`^column "(\w+)" is of type .* but expression is of type ([a-z ]+)$`)
)

// advice is what lets the server take a statement that it refuses for the shape of
// a table.
func (refused refusal) advice() string {
	const compare = "compare the table with the platform's schema"
	e := refused.err
	table, columns := refused.statement.Conflict()
	switch {
	case e.Code == "42P10" && table != "":
		return fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (%s);", schema.Ident(table), columns)
	case e.Code == "23502" && e.TableName != "":
		return fmt.Sprintf("give the column a default, or: ALTER TABLE %s ALTER COLUMN %s DROP NOT NULL;", schema.Ident(e.TableName), schema.Ident(e.ColumnName))
	case e.Code == "55000" && refused.statement.Use == schema.ForRetention:
		// A publication of deletes needs to tell rows apart, and samples have no key.
		return "ALTER TABLE system_metrics REPLICA IDENTITY FULL;"
	case e.Code == "23514" && e.ConstraintName != "":
		return fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s;", schema.Ident(e.TableName), schema.Ident(e.ConstraintName))
	case e.Code == "23514":
		return "make the partition that is missing"
	}
	if match := enumValue.FindStringSubmatch(e.Message); match != nil && e.Code == "22P02" {
		return fmt.Sprintf("ALTER TYPE %s ADD VALUE %s;", match[1], literal(match[2]))
	}
	if match := typedOther.FindStringSubmatch(e.Message); match != nil && e.Code == "42804" {
		for _, p := range refused.statement.Privileges() {
			if p.Right == "INSERT" && slices.Contains(schema.OwnTables(), p.Relation) {
				return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE %s;", schema.Ident(p.Relation), schema.Ident(match[1]), match[2])
			}
		}
	}
	return compare
}

// checkStandIns looks at the tables that newer releases have dropped while the
// routes still read them.
func checkStandIns(ctx context.Context, r *run, f *findings) error {
	stands, err := r.standing(ctx)
	if err != nil {
		return err
	}
	for _, s := range schema.StandIns {
		stood, exists := stands[s.Name]
		_, succeeded := stands[s.Successor]
		switch {
		case !exists && succeeded:
			f.warn("restart the worker, or `ops-worker migrate up`: it makes the view", "%s is missing, and no view over %s stands in for it", s.Name, s.Successor)
		case !exists:
			f.note("%s: missing, and so is its successor %s", s.Name, s.Successor)
		case stood.IsView() && stood.MadeByWorker() && r.server.VersionNum >= 150000 && !stood.SecurityInvoker:
			f.warn(fmt.Sprintf("DROP VIEW %s; and restart the worker, which makes it anew", s.Name),
				"%s is a view over %s from before the server's upgrade: it shows rows by its owner's rights, not its reader's", s.Name, s.Successor)
		case stood.IsView() && stood.MadeByWorker():
			f.note("%s: a view over %s, made by ops_worker", s.Name, s.Successor)
		case stood.IsView():
			f.note("%s: a view of the platform's own", s.Name)
		case succeeded && stood.Spare():
			f.fail(fmt.Sprintf("if nothing writes to it: DROP TABLE %s; and restart the worker, which puts a view in its place", s.Name),
				"%s is a table that ops_worker made before there was %s, and hides it: the routes and the samples see that table alone", s.Name, s.Successor)
		case succeeded:
			f.note("%s: the platform's own table, used as it is although %s stands too", s.Name, s.Successor)
		default:
			f.note("%s: a table, no stand-in needed", s.Name)
		}
	}
	return nil
}

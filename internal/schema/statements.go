package schema

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"ops_worker/db"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Statement is one that the worker or a route runs, to be planned.
type Statement struct {
	// Use is what it is for.
	Use string
	// Platform marks what runs in the role that EnterPlatformScope takes on.
	Platform bool
	call     func(context.Context, *db.Queries) error
}

// What some of the statements are for.
const (
	ForLease        = "the lease"
	ForRetention    = "retention"
	ForSystemAlerts = "system alerts"
)

const (
	forSamples    = "the samples"
	forStreaks    = "the counts of checks"
	forHealthRows = "the health rows"
)

// WorkerStatements are all that the worker runs on tables. Their arguments mean
// nothing: none of them is executed.
func WorkerStatements() []Statement {
	list := []Statement{
		{ForLease, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.AcquireLease(ctx, db.AcquireLeaseParams{})
			return err
		}},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error { return q.CreateLease(ctx, "") }},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.CorrectNewestCycle(ctx, db.CorrectNewestCycleParams{})
			return err
		}},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.HoldLease(ctx, db.HoldLeaseParams{})
			return err
		}},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error { _, err := q.LockLease(ctx, ""); return err }},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error { _, err := q.ReadLease(ctx, ""); return err }},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.ReleaseLease(ctx, db.ReleaseLeaseParams{})
			return err
		}},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.RenewLease(ctx, db.RenewLeaseParams{})
			return err
		}},
		{ForLease, false, func(ctx context.Context, q *db.Queries) error { _, err := q.TouchLease(ctx, ""); return err }},
		{"the worker's start", false, func(ctx context.Context, q *db.Queries) error { _, err := q.AppliedMigrations(ctx); return err }},
		{forStreaks, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.CountChecks(ctx, db.CountChecksParams{})
			return err
		}},
		{forHealthRows, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.UpsertServiceHealth(ctx, db.UpsertServiceHealthParams{})
			return err
		}},
		{forSamples, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.AppendSamples(ctx, db.AppendSamplesParams{Recheck: true})
			return err
		}},
		{forSamples, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.NewestValues(ctx, db.NewestValuesParams{})
			return err
		}},
		{ForRetention, false, func(ctx context.Context, q *db.Queries) error {
			_, err := q.DeleteExpiredSamples(ctx, db.DeleteExpiredSamplesParams{})
			return err
		}},
		{ForSystemAlerts, true, func(ctx context.Context, q *db.Queries) error {
			_, err := q.SyncSystemAlerts(ctx, db.SyncSystemAlertsParams{})
			return err
		}},
	}
	for _, a := range db.Aggregates {
		list = append(list, Statement{a.Use(), a.Platform, func(ctx context.Context, q *db.Queries) error { _, err := a.Read(ctx, q); return err }})
	}
	return list
}

// Statement is the route's read.
func (r Route) Statement() Statement { return Statement{Use: r.Name, call: textCall(r.SQL)} }

func textCall(text string) func(context.Context, *db.Queries) error {
	return func(ctx context.Context, q *db.Queries) error { _, err := q.Raw().Exec(ctx, text); return err }
}

// Plan lets the server plan a statement without executing it, in the role that
// runs it or, where one is given, in another. The error is the server's: about
// tables and columns that are missing, and about rights and policies of that
// role. It returns the role.
func (s Statement) Plan(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, role string) (as string, err error) {
	err = db.InTx(ctx, pool, db.ReadOnly, limit, func(q *db.Queries) error {
		var err error
		if s.Platform && role == "" {
			as, err = q.EnterPlatformScope(ctx)
		} else {
			as, err = q.DoctorEnterRole(ctx, role)
		}
		if err != nil {
			return &RoleError{Role: role, err: err}
		}
		if err := s.call(ctx, db.New(planner{q.Raw()})); !errors.Is(err, errPlanned) {
			return err
		}
		return nil
	})
	return as, err
}

// planner is a DBTX that has the server plan what it should run.
type planner struct{ on db.DBTX }

var errPlanned = errors.New("planned, not run")

// Exec plans.
func (p planner) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return p.on.Exec(ctx, "EXPLAIN "+sql, args...)
}

// Query plans, and fails.
func (p planner) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if _, err := p.Exec(ctx, sql, args...); err != nil {
		return nil, err
	}
	return nil, errPlanned
}

// QueryRow is Query.
func (p planner) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	_, err := p.Query(ctx, sql, args...)
	return failedRow{err}
}

type failedRow struct{ err error }

// Scan fails.
func (r failedRow) Scan(...any) error { return r.err }

// RoleError is a role that cannot be taken on.
type RoleError struct {
	Role string
	err  error
}

func (e *RoleError) Error() string { return fmt.Sprintf("take on the role %s: %v", e.Role, e.err) }
func (e *RoleError) Unwrap() error { return e.err }

// Privilege is a right to a table.
type Privilege struct{ Relation, Right string }

// The words of our own SQL around the name of a table.
var (
	sqlNoise    = regexp.MustCompile(`--[^\n]*|'(?:[^']|'')*'`)
	sqlRelation = regexp.MustCompile(`(?i)\b(INSERT INTO|DELETE FROM|UPDATE|FROM|JOIN|USING)\s+([a-zA-Z_][a-z0-9_.]*|SET)\b(\s*\()?`)
	sqlCTE      = regexp.MustCompile(`(?i)(?:\bWITH(?:\s+RECURSIVE)?|,)\s+([a-z_]+)\s+AS\s*\(`)
	sqlTarget   = regexp.MustCompile(`(?i)\bINSERT INTO ([a-z_]+)\b[^;]*?\bON CONFLICT \(([a-z_, ]+)\)`)
	sqlUpdates  = regexp.MustCompile(`(?i)\bON CONFLICT\b[^;]*\bDO UPDATE\b`)
	sqlLocks    = regexp.MustCompile(`(?i)\bFOR (?:NO KEY )?(?:UPDATE|SHARE|KEY SHARE)\b`)
)

// Privileges are the rights that a statement needs, read off its text: the
// server names the table that it refuses, but only the first, in the language
// that it was set up with, and not the right. It knows the SQL of this
// repository, and a test holds it against the server.
func (s Statement) Privileges() []Privilege {
	text := sqlNoise.ReplaceAllString(s.text(), " ")
	with := map[string]bool{}
	for _, match := range sqlCTE.FindAllStringSubmatch(text, -1) {
		with[match[1]] = true
	}
	var list []Privilege
	need := func(relation string, rights ...string) {
		for _, right := range rights {
			if p := (Privilege{relation, right}); !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	locked := lockedRelations(text)
	for _, match := range sqlRelation.FindAllStringSubmatch(text, -1) {
		word, relation := strings.ToUpper(match[1]), match[2]
		function := match[3] != "" && word != "INSERT INTO"
		if with[relation] || function || isCatalogue(relation) || relation == "SET" { // the last of DO UPDATE SET
			continue
		}
		switch word {
		case "INSERT INTO":
			need(relation, "INSERT")
			if sqlTarget.MatchString(text) {
				need(relation, "SELECT")
			}
			if sqlUpdates.MatchString(text) {
				need(relation, "SELECT", "UPDATE")
			}
		case "UPDATE":
			need(relation, "SELECT", "UPDATE")
		case "DELETE FROM":
			need(relation, "DELETE", "SELECT")
		default:
			need(relation, "SELECT")
			if locked[relation] {
				need(relation, "UPDATE")
			}
		}
	}
	return list
}

// Conflict is the table of an insert and the columns that must be unique in it,
// empty where the statement names none.
func (s Statement) Conflict() (table, columns string) {
	if match := sqlTarget.FindStringSubmatch(sqlNoise.ReplaceAllString(s.text(), " ")); match != nil {
		return match[1], match[2]
	}
	return "", ""
}

// lockedRelations are those behind whose FROM a locking clause stands next.
func lockedRelations(text string) map[string]bool {
	locked := map[string]bool{}
	for _, lock := range sqlLocks.FindAllStringIndex(text, -1) {
		before := sqlRelation.FindAllStringSubmatch(text[:lock[0]], -1)
		if len(before) > 0 {
			locked[before[len(before)-1][2]] = true
		}
	}
	return locked
}

// isCatalogue reports whether a name is the server's, or no name of a table.
func isCatalogue(name string) bool {
	return strings.Contains(name, ".") || strings.HasPrefix(name, "pg_")
}

// text is what the statement sends.
func (s Statement) text() string {
	batch := &pgx.Batch{}
	_ = s.call(context.Background(), db.New(recorder{batch: batch}))
	return batch.QueuedQueries[0].SQL
}

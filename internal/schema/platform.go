package schema

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/migrations"
	"ops_worker/sql"
)

// OperatorRole is the role that the platform's system routes take on.
const OperatorRole = "pulse_operator"

// madeByWorker begins the comment on every table and view that stands in the
// platform's place.
const (
	madeByWorker = "created by ops_worker"
	mark         = madeByWorker + " in its first form; the platform may replace it"
)

// Relation is a table, view or index that stands.
type Relation db.DescribeRelationsRow

// MadeByWorker reports whether the worker made the relation in the platform's
// place, and nobody has made it their own since. The comment alone does not tell:
// the platform's migrator goes on from a table that stands.
func (r Relation) MadeByWorker() bool {
	if !strings.HasPrefix(r.Comment, madeByWorker) {
		return false
	}
	return r.IsView() || !r.Linked && slices.Equal(r.Columns, firstColumns(r.Name))
}

// Spare reports whether the relation is a table that the worker made and that
// never had a row.
func (r Relation) Spare() bool { return r.MadeByWorker() && !r.IsView() && !r.Filled }

var columnLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^    ([a-z_]+) `) })

// firstColumns are those of a platform's table in its first form.
func firstColumns(table string) []string {
	var names []string
	for _, match := range columnLine().FindAllStringSubmatch(sqlFile("platform/tables", table), -1) {
		names = append(names, match[1])
	}
	return names
}

var indexStatement = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^CREATE INDEX (\w+) ON [^;]+;`) })

// firstIndexes are the statements of a platform's table in its first form that make
// its indexes, by their names; but unique ones, which later releases replace.
func firstIndexes(table string) map[string]string {
	statements := map[string]string{}
	for _, match := range indexStatement().FindAllStringSubmatch(sqlFile("platform/tables", table), -1) {
		statements[match[1]] = match[0]
	}
	return statements
}

// IsView reports whether the relation is a view.
func (r Relation) IsView() bool { return r.Kind == "v" }

// StandIn is a view that takes the name of a table which newer releases of the
// platform have dropped.
type StandIn struct {
	Name      string
	Successor string // the table that the platform keeps instead
}

// Route is one read of the platform's system routes.
type Route struct {
	Name     string
	Operator bool   // read as OperatorRole
	If       string // the relation that the route looks for first, if any
	SQL      string
}

// The platform's schema, as sql/platform has it; read when a command first needs it.
var (
	PlatformTables = sync.OnceValue(func() []string { return sqlFiles("platform/tables") })
	StandIns       = sync.OnceValue(readStandIns)
	Routes         = sync.OnceValue(readRoutes)
)

// Relations are all that the worker and the routes use: its own, the platform's,
// and what the platform keeps instead of dropped ones.
func Relations() []string {
	names := slices.Concat(OwnRelations(), PlatformTables())
	for _, s := range StandIns() {
		names = append(names, s.Successor)
	}
	for _, r := range Routes() {
		if r.If != "" && !slices.Contains(names, r.If) {
			names = append(names, r.If)
		}
	}
	return names
}

// OwnRelations are the worker's own tables and views, and their indexes.
func OwnRelations() []string {
	return append(OwnTables(), must(migrations.Relations(migrations.Index))...)
}

// OwnTables are the worker's own tables and views.
func OwnTables() []string { return must(migrations.Relations(migrations.Table, migrations.View)) }

// must is for what was embedded: an error would be one of the build.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// sqlFiles are the names of the files in a directory of sql/platform.
func sqlFiles(directory string) []string {
	var names []string
	for _, file := range must(fs.Glob(sql.Platform, directory+"/*.sql")) {
		names = append(names, strings.TrimSuffix(path.Base(file), ".sql"))
	}
	return names
}

func sqlFile(directory, name string) string {
	return string(must(sql.Platform.ReadFile(directory + "/" + name + ".sql")))
}

func readStandIns() []StandIn {
	viewSource := regexp.MustCompile(`(?m)^FROM (\w+);`)
	var list []StandIn
	for _, name := range sqlFiles("platform/stand_ins") {
		list = append(list, StandIn{name, viewSource.FindStringSubmatch(sqlFile("platform/stand_ins", name))[1]})
	}
	return list
}

func readRoutes() []Route {
	routeHead := regexp.MustCompile(`^(.+?)( as ` + OperatorRole + `)?(?: if (\w+) exists)?$`)
	var list []Route
	for _, part := range strings.Split(sqlFile("platform", "routes"), "-- route: ")[1:] {
		head, text, _ := strings.Cut(part, "\n")
		match := routeHead.FindStringSubmatch(head)
		list = append(list, Route{Name: match[1], Operator: match[2] != "", If: match[3], SQL: strings.TrimSpace(text)})
	}
	return list
}

// occasion is when the platform's tables are made sure of.
type occasion struct {
	limits db.Limits
	// thorough lets system_metrics become a hypertable, and tables that an earlier
	// worker has made get their indexes.
	thorough bool
}

var (
	atStart = occasion{db.Limits{Statement: 4 * time.Minute, Lock: 4 * time.Minute}, true}
	// Beside running loops, what waits for a migration of the platform is given
	// up soon, and tried again.
	whileRunning = occasion{db.Limits{Statement: 30 * time.Second, Lock: 5 * time.Second}, false}
)

// ensurePlatform makes sure of what the platform's system routes read: tables in
// their first form, views in the place of dropped ones, and the role. What
// stands is left as it is. It returns a change for each thing that it made or
// could not make; none of these keeps it from the others.
func ensurePlatform(ctx context.Context, pool *pgxpool.Pool, when occasion, anyDatabase bool) ([]Change, error) {
	var e ensurer
	err := db.Transaction(ctx, pool, db.ReadWrite, when.limits, func(tx pgx.Tx) error {
		e = ensurer{tx: tx, q: db.New(tx), when: when, anyDatabase: anyDatabase}
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
	when        occasion
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
	// The role comes first, since on older servers the views belong to it, and
	// its rights last.
	for _, part := range []func(context.Context) error{e.ensureRole, e.ensureStandIns, e.ensureTables, e.ensureIndexes, e.ensureHypertable, e.ensureGrants} {
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

// StandingRelations are those of Relations that stand.
func StandingRelations(ctx context.Context, q *db.Queries) (map[string]Relation, error) {
	rows, err := q.DescribeRelations(ctx, Relations())
	if err != nil {
		return nil, err
	}
	stands := make(map[string]Relation, len(rows))
	for _, row := range rows {
		stands[row.Name] = Relation(row)
	}
	return stands, nil
}

// Missing are the tables and views that the worker makes and that do not stand.
func Missing(stands map[string]Relation) []string {
	return slices.DeleteFunc(slices.Concat(OwnTables(), PlatformTables()), func(name string) bool {
		_, exists := stands[name]
		return exists || succeeded(stands, name)
	})
}

// MissingTables are Missing of a database.
func MissingTables(ctx context.Context, q *db.Queries) ([]string, error) {
	stands, err := StandingRelations(ctx, q)
	if err != nil {
		return nil, err
	}
	return Missing(stands), nil
}

// step runs statements behind a savepoint. Where the server refuses one, the
// change has failed, which is no error.
func (e *ensurer) step(ctx context.Context, done Change, statements ...string) error {
	return e.try(ctx, done, func(savepoint pgx.Tx) error {
		for _, statement := range statements {
			if _, err := savepoint.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *ensurer) try(ctx context.Context, done Change, fn func(savepoint pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, e.tx, fn)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused):
		e.changes = append(e.changes, Change{done.Object, failed, refused.Message})
		return nil
	case err == nil:
		e.changes = append(e.changes, done)
	}
	return err
}

// ensureRole makes the operator's role. Only with BYPASSRLS: without it the
// routes would count 0 rows under the policies, silently, and the platform's
// migrator would find a role and leave it as it is.
func (e *ensurer) ensureRole(ctx context.Context) error {
	if e.server.OperatorExists {
		return e.ensureMembership(ctx)
	}
	err := e.step(ctx, Change{OperatorRole, created, "role"},
		"CREATE ROLE "+OperatorRole+" NOLOGIN BYPASSRLS", "GRANT "+OperatorRole+" TO CURRENT_USER")
	if err != nil {
		return err
	}
	// Made by another database's worker meanwhile, it is there as well.
	if e.server, err = e.q.DescribeServer(ctx); err == nil && e.server.OperatorExists {
		e.changes = slices.DeleteFunc(e.changes, func(c Change) bool { return c.Object == OperatorRole && c.Failed() })
	}
	return err
}

// ensureMembership lets the login role take on the operator's role, which belongs
// to the whole server: another database's worker may have made it.
func (e *ensurer) ensureMembership(ctx context.Context) error {
	if e.server.TakesOnOperator {
		return nil
	}
	begin := len(e.changes)
	if err := e.step(ctx, Change{OperatorRole, granted, "to the login role"}, grantOperator(e.server.VersionNum)); err != nil {
		return err
	}
	server, err := e.q.DescribeServer(ctx)
	if err == nil && !server.TakesOnOperator {
		// Not ours to grant. Where it is needed, the aggregates and doctor say so.
		e.changes = e.changes[:begin]
	}
	return err
}

// grantOperator lets the login role take on the operator's. Since PostgreSQL 16 a
// membership may be without that.
func grantOperator(serverVersion int32) string {
	if serverVersion >= 160000 {
		return "GRANT " + OperatorRole + " TO CURRENT_USER WITH SET TRUE"
	}
	return "GRANT " + OperatorRole + " TO CURRENT_USER"
}

func (e *ensurer) ensureStandIns(ctx context.Context) error {
	for _, s := range StandIns() {
		stands, exists := e.stands[s.Name]
		if _, succeeded := e.stands[s.Successor]; !succeeded {
			continue
		}
		if exists {
			// It may be in use at any time, so it is only named, never dropped.
			if stands.Spare() {
				e.changes = append(e.changes, Change{s.Name, failed, fmt.Sprintf(
					"a table that ops_worker made hides %s; if nothing uses it, DROP TABLE %s", s.Successor, s.Name)})
			}
			continue
		}
		statements := []string{sqlFile("platform/stand_ins", s.Name)}
		if e.server.VersionNum >= 150000 {
			// The view shows each reader what the table itself would.
			statements = append(statements, "ALTER VIEW "+s.Name+" SET (security_invoker = true)")
		} else {
			// An older server runs a view with its owner's rights, which would
			// show every tenant's rows to every reader of the view. So it
			// belongs to the one role that sees them all anyway, and nobody else
			// may read it.
			statements = append(statements, "ALTER VIEW "+s.Name+" OWNER TO "+OperatorRole, "REVOKE ALL ON "+s.Name+" FROM PUBLIC")
			if e.server.AppExists {
				statements = append(statements, "REVOKE ALL ON "+s.Name+" FROM pulse_app")
			}
		}
		statements = append(statements, "COMMENT ON VIEW "+s.Name+" IS '"+mark+"'")
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

// ensureIndexes makes the platform's own indexes on tables that an earlier worker has
// made without them.
func (e *ensurer) ensureIndexes(ctx context.Context) error {
	if !e.when.thorough {
		return nil
	}
	for _, table := range PlatformTables() {
		if stands, exists := e.stands[table]; !exists || stands.IsView() || !stands.MadeByWorker() {
			continue
		}
		statements := firstIndexes(table)
		names := slices.Sorted(maps.Keys(statements))
		stand, err := e.q.DescribeRelations(ctx, names)
		if err != nil {
			return err
		}
		for _, name := range names {
			if slices.ContainsFunc(stand, func(r db.DescribeRelationsRow) bool { return r.Name == name }) {
				continue
			}
			if err := e.step(ctx, Change{name, created, "index of " + table}, statements[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// succeeded reports whether the platform keeps another table instead: an empty
// one under the old name would read as zero, silently.
func succeeded(stands map[string]Relation, name string) bool {
	return slices.ContainsFunc(StandIns(), func(s StandIn) bool {
		_, exists := stands[s.Successor]
		return s.Name == name && exists
	})
}

// conversionLock is how long a start waits for the table.
const conversionLock = 5 * time.Second

// ensureHypertable makes a hypertable of a system_metrics that is empty, on a database
// that got TimescaleDB after it. One with rows is locked for long by that: doctor and
// docs/operation.md have the statement.
func (e *ensurer) ensureHypertable(ctx context.Context) error {
	if e.timescale == nil || !e.when.thorough {
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
	before := len(e.changes)
	err := e.try(ctx, Change{table, created, "hypertable"}, func(savepoint pgx.Tx) error {
		for _, s := range []string{limitLocks(conversionLock), statement, limitLocks(e.when.limits.Lock)} {
			if _, err := savepoint.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && e.changes[before].Failed() {
		e.changes[before].Detail = "hypertable: " + e.changes[before].Detail
	}
	return err
}

func limitLocks(limit time.Duration) string {
	return fmt.Sprintf("SET LOCAL lock_timeout = %d", limit.Milliseconds())
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

// IsIndex reports whether the relation is an index, which nobody reads by name.
func (r Relation) IsIndex() bool { return r.Kind == "i" || r.Kind == "I" }

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

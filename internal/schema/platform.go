package schema

import (
	"context"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

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

var columnLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^    ([a-z_]+) `) })

// firstColumns are those of a platform's table in its first form.
func firstColumns(table string) []string {
	var names []string
	for _, match := range columnLine().FindAllStringSubmatch(sqlFile("platform/tables", table), -1) {
		names = append(names, match[1])
	}
	return names
}

// IsView reports whether the relation is a view.
func (r Relation) IsView() bool { return r.Kind == "v" }

// IsIndex reports whether the relation is an index, which nobody reads by name.
func (r Relation) IsIndex() bool { return r.Kind == "i" || r.Kind == "I" }

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
func OwnRelations() []string { return append(OwnTables(), migrations.Indexes...) }

// OwnTables are the worker's own tables and views.
func OwnTables() []string { return slices.Concat(migrations.Tables, migrations.Views) }

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

// MissingTables are the tables and views that the worker makes and that do not stand.
func MissingTables(ctx context.Context, q *db.Queries) ([]string, error) {
	stands, err := StandingRelations(ctx, q)
	return slices.DeleteFunc(slices.Concat(OwnTables(), PlatformTables()), func(name string) bool {
		_, exists := stands[name]
		return exists || succeeded(stands, name)
	}), err
}

// succeeded reports whether the platform keeps another table instead: an empty
// one under the old name would read as zero, silently.
func succeeded(stands map[string]Relation, name string) bool {
	return slices.ContainsFunc(StandIns(), func(s StandIn) bool {
		_, exists := stands[s.Successor]
		return s.Name == name && exists
	})
}

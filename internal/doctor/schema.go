package doctor

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"ops_worker/db"
	"ops_worker/migrations"
)

const (
	leaseTable   = "ops_worker_lease"
	versionTable = "ops_worker_schema_version"
	// madeByWorker begins the comment on every table and view that
	// ops_worker_ensure_platform makes in the platform's place.
	madeByWorker = "created by ops_worker"
)

// relation is a table or view that the worker or the platform's system routes
// use, with the columns that they use.
type relation struct {
	name    string
	columns string
	// routes marks what the routes read in the role pulse_operator.
	routes bool
	// optional marks what is read only where it stands.
	optional bool
	// use says what needs it.
	use string
}

// relations is the table to extend when a route or the worker reads more.
var relations = []relation{
	{name: "service_health", columns: "service status latency_ms details checked_at", use: "the health monitor"},
	{name: "system_metrics", columns: "time metric_name service tags value", use: "the metrics collector, /metrics/history, /metrics/latest"},
	{name: "system_metrics_latest", columns: "time metric_name service value tags", use: "dashboards"},
	{name: "system_metrics_recent", columns: "metric_name service avg_value max_value min_value sample_count", use: "dashboards"},
	{name: leaseTable, columns: "name holder epoch acquired_at expires_at last_cycle_at", use: "every write of the worker"},
	{name: versionTable, columns: "version_id is_applied", use: "the worker's start"},

	{name: "tenants", columns: "tenant_id name status metadata", routes: true, use: "system alerts, /aggregates"},
	{name: "device_registry", columns: "status site_id", routes: true, use: "/aggregates"},
	{name: "device_state", columns: "status last_seen_at", routes: true, use: "the samples devices_online and devices_stale, /aggregates"},
	{name: "fleet_alert", columns: "status created_at closed_at tenant_id site_id device_id alert_type fingerprint severity confidence summary details",
		routes: true, use: "the sample alerts_open, system alerts, /aggregates"},
	{name: "alert_rules", columns: "enabled", routes: true, use: "/aggregates"},
	{name: "integrations", columns: "enabled type", routes: true, use: "/aggregates"},
	{name: "delivery_jobs", columns: "job_id integration_id attempts last_error tenant_id created_at status",
		routes: true, use: "the sample deliveries_pending, /aggregates, /errors"},
	{name: "quarantine_events", columns: "ingested_at tenant_id device_id reason topic", routes: true, optional: true, use: "/errors"},
	{name: "operator_audit_log", columns: "created_at tenant_filter user_id action ip_address", routes: true, use: "/errors"},
	{name: "rate_limit_events", columns: "created_at tenant_id device_id event_count", routes: true, optional: true, use: "/errors"},
	{name: "telemetry", columns: "time msg_type", routes: true, use: "/metrics"},
}

// sampled are the platform's tables that samples are counted from.
var sampled = []string{"device_state", "fleet_alert", "delivery_jobs"}

// successors are what newer releases of the platform keep instead.
var successors = map[string]string{
	"integrations":  "notification_channels",
	"delivery_jobs": "notification_jobs",
}

// usedBy says what needs a relation.
func usedBy(name string) string {
	for old, successor := range successors {
		if name == successor {
			name = old
		}
	}
	for _, r := range relations {
		if r.name == name {
			return "used by " + r.use
		}
	}
	return "used by the worker"
}

// standing are the relations that stand, successors included.
func (x *examination) standing(ctx context.Context) (map[string]db.DoctorRelationsRow, error) {
	return x.relations.get(ctx, x, func(ctx context.Context, q *db.Queries) (map[string]db.DoctorRelationsRow, error) {
		var names []string
		for _, r := range relations {
			names = append(names, r.name)
			if successor := successors[r.name]; successor != "" {
				names = append(names, successor)
			}
		}
		rows, err := q.DoctorRelations(ctx, names)
		stand := make(map[string]db.DoctorRelationsRow, len(rows))
		for _, row := range rows {
			stand[row.Name] = row
		}
		return stand, err
	})
}

// require skips a check whose tables are missing.
func (x *examination) require(ctx context.Context, names ...string) error {
	stand, err := x.standing(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := stand[name]; !ok {
			return skip("there is no table %s", name)
		}
	}
	return nil
}

const (
	kindTable = "r"
	kindView  = "v"
)

// behind is the table whose rows are read under a name: the successor where a
// view of ours stands in.
func behind(stand map[string]db.DoctorRelationsRow, name string) string {
	if r := stand[name]; r.Kind == kindView && strings.HasPrefix(r.Comment, madeByWorker) && successors[name] != "" {
		return successors[name]
	}
	return name
}

// answerOf reads the JSON in the one row that query_to_xml answers.
func answerOf(text string, value any) error {
	var row struct {
		JSON string `xml:"json"`
	}
	if err := xml.Unmarshal([]byte(text), &row); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	if err := json.Unmarshal([]byte(row.JSON), value); err != nil {
		return fmt.Errorf("read the server's answer: %w", err)
	}
	return nil
}

// migrationState compares the migrations in this binary with those applied.
type migrationState struct {
	known, applied []int64
	never          bool
	pending, newer []int64
}

func (x *examination) migrated(ctx context.Context) (migrationState, error) {
	return x.migrations.get(ctx, x, func(ctx context.Context, q *db.Queries) (state migrationState, err error) {
		if state.known, err = knownMigrations(); err != nil {
			return state, err
		}
		answer, err := q.DoctorMigrations(ctx)
		if db.IsNoRows(err) {
			state.never = true
		} else if err != nil {
			return state, err
		} else if err := answerOf(answer, &state.applied); err != nil {
			return state, err
		}
		for _, v := range state.known {
			if !slices.Contains(state.applied, v) {
				state.pending = append(state.pending, v)
			}
		}
		for _, v := range state.applied {
			if !slices.Contains(state.known, v) {
				state.newer = append(state.newer, v)
			}
		}
		return state, nil
	})
}

// pending reports whether migrations are known to be pending.
func (x *examination) pending(ctx context.Context) bool {
	state, err := x.migrated(ctx)
	return err == nil && len(state.pending) > 0
}

// knownMigrations are the versions of the migrations in this binary.
func knownMigrations() ([]int64, error) {
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	versions := make([]int64, len(files))
	for i, file := range files {
		number, _, _ := strings.Cut(file, "_")
		if versions[i], err = strconv.ParseInt(number, 10, 64); err != nil {
			return nil, fmt.Errorf("read the number of migration %s: %w", file, err)
		}
	}
	slices.Sort(versions)
	return versions, nil
}

func checkSchema(ctx context.Context, x *examination, f *findings) error {
	state, err := x.migrated(ctx)
	if err != nil {
		return err
	}
	newest := state.known[len(state.known)-1]
	const apply = "nothing, if the worker is about to be started: it applies them; else `ops-worker migrate up`"
	switch {
	case state.never:
		f.warn(apply, "never migrated: %s does not exist, all %d migrations are pending", versionTable, len(state.known))
	case len(state.pending) > 0:
		f.warn(apply, "pending: migration %s of %d", list(state.pending), newest)
	}
	if len(state.newer) > 0 {
		f.warn("use the newer ops-worker that migrated this database, here and wherever it runs",
			"migration %s was applied by a newer ops-worker; this one knows %d", list(state.newer), newest)
	}
	if f.result == OK {
		f.note("version %d, nothing is pending", newest)
	}
	return nil
}

func list[T any](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, ", ")
}

func checkTables(ctx context.Context, x *examination, f *findings) error {
	stand, err := x.standing(ctx)
	if err != nil {
		return err
	}
	complete := 0
	var coming []string
	for _, r := range relations {
		row, ok := stand[r.name]
		if !ok {
			switch {
			case r.optional:
			case x.pending(ctx):
				coming = append(coming, r.name)
			case !r.routes:
				f.fail("run the statements of migrations/00001_worker_tables.sql and 00002_lease.sql that make it: the schema's version says that they were run",
					"%s does not exist (%s)", r.name, usedBy(r.name))
			default:
				f.fail("restart the worker, or `ops-worker migrate up`: it makes what is missing, a view where a successor of the table stands",
					"%s does not exist (%s)", r.name, usedBy(r.name))
			}
			continue
		}
		var missing []string
		for column := range strings.FieldsSeq(r.columns) {
			if !slices.Contains(row.Columns, column) {
				missing = append(missing, column)
			}
		}
		if len(missing) > 0 {
			f.fail("run the platform's migrator to its end; the worker alters no table that stands",
				"%s has no column %s (%s)", r.name, strings.Join(missing, ", "), usedBy(r.name))
			continue
		}
		complete++
	}
	if len(coming) > 0 {
		f.warn("nothing, if the worker is about to be started: it makes what is missing; else `ops-worker migrate up`",
			"not there yet: %s", strings.Join(coming, ", "))
	}
	if f.result == OK {
		f.note("all %d that the worker and the routes use stand, with every column", complete)
	}
	return nil
}

// checkStandIns looks at the two tables that newer releases have dropped while
// the routes still read them.
func checkStandIns(ctx context.Context, x *examination, f *findings) error {
	stand, err := x.standing(ctx)
	if err != nil {
		return err
	}
	for _, old := range []string{"integrations", "delivery_jobs"} {
		successor := successors[old]
		row, standing := stand[old]
		_, succeeded := stand[successor]
		ours := strings.HasPrefix(row.Comment, madeByWorker)
		switch {
		case !standing && succeeded:
			f.warn("restart the worker, or `ops-worker migrate up`: it makes the view", "%s is missing, and no view over %s stands in for it", old, successor)
		case !standing:
			f.note("%s: missing, and so is its successor %s", old, successor)
		case row.Kind == kindView && ours && x.server.VersionNum >= 150000 && !row.SecurityInvoker:
			f.warn(fmt.Sprintf("DROP VIEW %s; and restart the worker, which makes it anew", old),
				"%s is a view over %s from before the server's upgrade: it shows rows by its owner's rights, not its reader's", old, successor)
		case row.Kind == kindView && ours:
			f.note("%s: a view over %s, made by ops_worker", old, successor)
		case row.Kind == kindView:
			f.note("%s: a view of the platform's own", old)
		case succeeded && ours:
			f.fail(fmt.Sprintf("if nothing writes to it: DROP TABLE %s; and restart the worker, which puts a view in its place", old),
				"%s is a table that ops_worker made before there was %s, and hides it: the routes and the samples see that table alone", old, successor)
		case succeeded:
			f.note("%s: the platform's own table, used as it is although %s stands too", old, successor)
		default:
			f.note("%s: a table, no stand-in needed", old)
		}
	}
	return nil
}

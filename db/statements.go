package db

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Aggregate is a query of sql/queries/aggregates.sql.
type Aggregate struct {
	Name string
	SQL  string
	// Platform marks the tables of the platform, which are read in the role that
	// EnterPlatformScope takes on, past row-level security or not at all.
	Platform bool
	// Standby marks what is asked of the standby alone, where there is one.
	Standby bool
	// Every is how often it is due while that is cheap; 0 is with every cycle.
	Every time.Duration
	// Minutely are those of its samples that are stored once a minute, however often it
	// is due.
	Minutely []string
}

// Elsewhere reports whether it is read on the standby, where there is one.
func (a Aggregate) Elsewhere() bool { return a.Platform || a.Standby }

// Aggregates is the list to extend for a table that is not read yet. Another
// number of a table that is read needs no line here: the SQL decides which
// samples exist.
//
// Those that read the platform come last, since its role holds to the end of the
// batch. Of these the slowest comes last: it cannot take time from the others.
var Aggregates = []Aggregate{
	{Name: "database", SQL: DatabaseSamples},
	{Name: "size", SQL: SizeSamples},
	{Name: "standby", SQL: StandbySamples, Standby: true},
	{Name: "activity", SQL: ActivitySamples, Every: time.Minute},
	{Name: "database totals", SQL: DatabaseTotalSamples, Every: time.Minute},
	{Name: "replication", SQL: ReplicationSamples, Every: time.Minute},
	{Name: "tables", SQL: TableSamples, Every: time.Minute},
	{Name: "tenants", SQL: TenantSamples, Platform: true, Every: time.Minute},
	{Name: "rules", SQL: RuleSamples, Platform: true, Every: time.Minute},
	{Name: "integrations", SQL: IntegrationSamples, Platform: true, Every: time.Minute},
	{Name: "alerts", SQL: AlertSamples, Platform: true},
	{Name: "deliveries", SQL: DeliverySamples, Platform: true},
	{Name: "alert totals", SQL: AlertTotalSamples, Platform: true, Every: time.Minute},
	{Name: "delivery totals", SQL: DeliveryTotalSamples, Platform: true, Every: time.Minute},
	{Name: "registry", SQL: RegistrySamples, Platform: true, Every: time.Minute},
	{Name: "devices", SQL: DeviceSamples, Platform: true, Minutely: []string{"devices_offline"}},
}

// SampleEvery is how often a sample of it is stored while that is cheap; 0 is with
// every cycle.
func (a Aggregate) SampleEvery(metric string) time.Duration {
	if slices.Contains(a.Minutely, metric) {
		return max(a.Every, time.Minute)
	}
	return a.Every
}

// A sample in the text of an aggregate: its name, and behind it its service.
var sqlSample = regexp.MustCompile(`'(\w\w+)'(?:::text AS metric_name)?, '(\w\w+)'`)

// SampleName is a series, whatever its tags.
type SampleName struct{ Service, Metric string }

// Samples are those that it may yield, read off its text, and a test holds them
// against what it does.
func (a Aggregate) Samples() (names []SampleName) {
	for _, match := range sqlSample.FindAllStringSubmatch(a.SQL, -1) {
		names = append(names, SampleName{Service: match[2], Metric: match[1]})
	}
	return names
}

// DueAggregates are those of a worker with a standby, or without one.
func DueAggregates(standby bool) []Aggregate {
	return slices.DeleteFunc(slices.Clone(Aggregates), func(a Aggregate) bool { return a.Standby && !standby })
}

// TimedSamplesRow is a row of any aggregate, and how long the server had been at it.
type TimedSamplesRow struct {
	DeviceSamplesRow
	TookMs float64
}

// Timed is the aggregate's SQL, whose rows are TimedSamplesRow.
func (a Aggregate) Timed() string {
	return "SELECT a.*, (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000)::float8 AS took_ms FROM (" + a.SQL + ") a"
}

// Took is how long the server had been at an aggregate with these rows.
func Took(rows []TimedSamplesRow) (took time.Duration) {
	for _, r := range rows {
		took = max(took, time.Duration(r.TookMs*float64(time.Millisecond)))
	}
	return took
}

// Read runs one aggregate, in a transaction that has no role yet.
func (a Aggregate) Read(ctx context.Context, q *Queries) ([]TimedSamplesRow, error) {
	if a.Platform {
		if _, err := q.EnterPlatformScope(ctx); err != nil {
			return nil, err
		}
	}
	rows, err := q.db.Query(ctx, a.Timed())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByName[TimedSamplesRow])
}

// Statement is one that the worker or a route runs, to be planned.
type Statement struct {
	// Use is what it is for.
	Use string
	// Platform marks what runs in the role that EnterPlatformScope takes on.
	Platform bool
	call     func(context.Context, *Queries)
}

// What some of the statements are for.
const (
	ForLease        = "the lease"
	ForRetention    = "retention"
	ForSystemAlerts = "system alerts"
	ForOtherWriter  = "waiting for another writer"
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
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.AcquireLease(ctx, AcquireLeaseParams{}) }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _ = q.CreateLease(ctx, "") }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.CorrectNewestCycle(ctx, CorrectNewestCycleParams{}) }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _ = q.HoldLease(ctx, HoldLeaseParams{}) }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.LockLease(ctx, "") }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.ReadLease(ctx, "") }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.ReleaseLease(ctx, ReleaseLeaseParams{}) }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.RenewLease(ctx, RenewLeaseParams{}) }},
		{ForLease, false, func(ctx context.Context, q *Queries) { _, _ = q.TouchLease(ctx, "") }},
		{"the worker's start", false, func(ctx context.Context, q *Queries) { _, _ = q.AppliedMigrations(ctx) }},
		{ForOtherWriter, false, func(ctx context.Context, q *Queries) { _, _ = q.NewestWrites(ctx, NewestWritesParams{}) }},
		{forStreaks, false, func(ctx context.Context, q *Queries) { _, _ = q.CountChecks(ctx, CountChecksParams{}) }},
		{forHealthRows, false, func(ctx context.Context, q *Queries) { _, _ = q.UpsertServiceHealth(ctx, UpsertServiceHealthParams{}) }},
		{forSamples, false, func(ctx context.Context, q *Queries) { _, _ = q.AppendSamples(ctx, AppendSamplesParams{Recheck: true}) }},
		{forSamples, false, func(ctx context.Context, q *Queries) { _, _ = q.NewestValues(ctx, NewestValuesParams{}) }},
		{ForRetention, false, func(ctx context.Context, q *Queries) {
			_, _ = q.DeleteExpiredSamples(ctx, DeleteExpiredSamplesParams{})
		}},
		{ForSystemAlerts, true, func(ctx context.Context, q *Queries) { _, _ = q.SyncSystemAlerts(ctx, SyncSystemAlertsParams{}) }},
	}
	for _, a := range Aggregates {
		list = append(list, Statement{"the aggregate " + a.Name, a.Platform, textCall(a.SQL)})
	}
	return list
}

// Statement is the route's read.
func (r Route) Statement() Statement { return Statement{Use: r.Name, call: textCall(r.SQL)} }

func textCall(text string) func(context.Context, *Queries) {
	return func(ctx context.Context, q *Queries) { _, _ = q.db.Exec(ctx, text) }
}

// Plan lets the server plan a statement without executing it, in the role that
// runs it or, where one is given, in another. The error is the server's: about
// tables and columns that are missing, and about rights and policies of that
// role. It returns the role.
func (s Statement) Plan(ctx context.Context, pool *pgxpool.Pool, limit time.Duration, role string) (as string, err error) {
	roles := 1
	queue := func(batch *pgx.Batch) {
		Queue(batch, func(q *Queries) { _, _ = q.DoctorEnterRole(ctx, role) })
		if s.Platform && role == "" {
			Queue(batch, func(q *Queries) { _, _ = q.EnterPlatformScope(ctx) })
			roles++
		}
		s.call(ctx, New(recorder{batch, "EXPLAIN "}))
	}
	err = InOneTrip(ctx, pool, ReadOnly, BatchLimits(limit), queue, func(results pgx.BatchResults) error {
		for range roles {
			values, err := pgx.CollectExactlyOneRow(asRows(results), pgx.RowToMap)
			if err != nil {
				return &RoleError{Role: role, err: err}
			}
			as, _ = values["role"].(string)
		}
		_, err := results.Exec()
		return err
	})
	return as, err
}

// asRows is Query, whose error CollectExactlyOneRow finds in the rows too.
func asRows(results pgx.BatchResults) pgx.Rows {
	rows, _ := results.Query()
	return rows
}

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
	s.call(context.Background(), New(recorder{batch: batch}))
	return batch.QueuedQueries[0].SQL
}

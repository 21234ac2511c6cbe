package schema_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
)

// grant lets a role do what a list of rights says.
func grant(t *testing.T, database *pgtest.Database, role string, rights []schema.Privilege) {
	t.Helper()
	for _, p := range rights {
		database.Exec(t, fmt.Sprintf("GRANT %s ON %s TO %s", p.Right, p.Relation, role))
	}
}

func isRefused(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "42501"
}

// The rights that are read off a statement's text are those that the server
// asks for: with all of them it is planned, without any one of them it is not.
func TestTheRightsOfAStatementAreWhatTheServerAsksFor(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, "CREATE TABLE rate_limit_events (created_at timestamptz, tenant_id text, device_id text, event_count int)")
	statements := schema.WorkerStatements()
	for _, r := range schema.Routes {
		statements = append(statements, r.Statement())
	}
	// One role for all, since only its rights change.
	role, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	pool := database.PoolAs(t, address)
	for _, s := range statements {
		rights := s.Privileges()
		grant(t, database, role, rights)
		if as, err := s.Plan(t.Context(), pool, 5*time.Second, ""); err != nil || as != role {
			t.Errorf("%s as %s, with %v: %v", s.Use, as, rights, err)
		}
		for _, p := range rights {
			database.Exec(t, fmt.Sprintf("REVOKE %s ON %s FROM %s", p.Right, p.Relation, role))
			if _, err := s.Plan(t.Context(), pool, 5*time.Second, ""); !isRefused(err) {
				t.Errorf("%s without %v: %v", s.Use, p, err)
			}
			grant(t, database, role, []schema.Privilege{p})
		}
		for _, p := range rights {
			database.Exec(t, fmt.Sprintf("REVOKE ALL ON %s FROM %s", p.Relation, role))
		}
	}
}

func TestPlanningExecutesNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	for _, s := range schema.WorkerStatements() {
		if _, err := s.Plan(t.Context(), pool, 5*time.Second, ""); err != nil {
			t.Errorf("%s: %v", s.Use, err)
		}
	}
	for _, table := range []string{"ops_worker_lease", "service_health", "system_metrics", "fleet_alert", "tenants"} {
		if n := pgtest.Count(t, pool, "SELECT count(*) FROM "+table); n != 0 {
			t.Errorf("%d rows in %s", n, table)
		}
	}
}

func TestPlanningSeesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ spoil, code string }{
		"a missing table":  {"DROP TABLE device_state", "42P01"},
		"a missing column": {"ALTER TABLE fleet_alert DROP COLUMN status CASCADE", "42703"},
		"a missing key":    {"ALTER TABLE service_health DROP CONSTRAINT service_health_pkey", "42P10"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.New(t)
			database.Exec(t, test.spoil)
			pool := database.Pool(t)
			if !slices.ContainsFunc(schema.WorkerStatements(), func(s schema.Statement) bool { return codeOf(t, s, pool) == test.code }) {
				t.Errorf("no statement is refused with %s", test.code)
			}
		})
	}
}

func codeOf(t *testing.T, s schema.Statement, pool *pgxpool.Pool) string {
	t.Helper()
	_, err := s.Plan(t.Context(), pool, 5*time.Second, "")
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

// What an aggregate yields is what the tests know of it: a query whose rows are cut
// short, or have another name, shows here. A standby, and one behind this server, are
// not there.
func TestAggregatesYieldTheirSamples(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	want := map[string]bool{}
	for _, s := range slices.Concat(contracttest.Samples, contracttest.MinuteSamples) {
		if (s.Service == "postgres" || s.Service == "platform") && s.Metric != "healthy" {
			want[s.Service+" "+s.Metric] = true
		}
	}
	got := map[string]bool{}
	err := db.ReadAggregates(t.Context(), db.New(pool), db.Aggregates, func(_ db.Aggregate, samples []db.Sample, _ time.Duration) {
		for _, s := range samples {
			got[s.Service+" "+s.MetricName] = true
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

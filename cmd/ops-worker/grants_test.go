package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// granted are the statements that `grants` printed.
func granted(t *testing.T, environ []string, role string) []string {
	t.Helper()
	r := command(t, environ, "grants", role)
	if r.status != exitOK {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	var statements []string
	for line := range strings.Lines(r.stdout) {
		if statement, _, found := strings.Cut(line, "; -- "); found {
			statements = append(statements, statement)
		} else if !strings.HasPrefix(line, "--") {
			t.Errorf("neither a statement with its reason nor a comment: %s", line)
		}
	}
	return statements
}

var rightsOn = regexp.MustCompile(`^GRANT ([A-Z, ]+) (ON .+) TO (\S+)$`)

// revocations take back each right that a statement gives, one at a time.
func revocations(statement string) []string {
	match := rightsOn.FindStringSubmatch(statement)
	if match == nil {
		rest := strings.TrimSuffix(strings.TrimPrefix(statement, "GRANT "), " WITH SET TRUE")
		return []string{"REVOKE " + strings.Replace(rest, " TO ", " FROM ", 1)}
	}
	var list []string
	for right := range strings.SplitSeq(match[1], ", ") {
		list = append(list, fmt.Sprintf("REVOKE %s %s FROM %s", right, match[2], match[3]))
	}
	return list
}

// A role with what `grants` prints does all that the worker does, and with any one
// right less it does not.
func TestGrantsAreEnoughAndNeeded(t *testing.T) {
	t.Parallel()
	newest, err := os.ReadFile("../../internal/schema/testdata/platform_new.sql")
	if err != nil {
		t.Fatal(err)
	}
	for name, platform := range map[string]string{"first form": "SELECT", "newest schema": string(newest)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := pgtest.NewEmpty(t)
			database.Exec(t, platform)
			owner := environment(t, database)
			command(t, owner, "migrate", "up").want(t, exitOK, "00001", "")
			database.Exec(t, fmt.Sprintf("REVOKE ALL ON DATABASE %q FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC, pulse_operator; REVOKE ALL ON ALL TABLES IN SCHEMA public FROM pulse_operator", database.Name))
			role, login := database.Role(t, "NOSUPERUSER NOBYPASSRLS NOINHERIT")
			environ := append(slices.Clone(owner), "DATABASE_URL="+login)
			statements := granted(t, owner, role)
			database.Exec(t, strings.Join(statements, ";"))
			if err := exercise(t, database, environ, login); err != nil {
				t.Fatalf("with all of it: %v", err)
			}
			command(t, environ, "once", "metrics").want(t, exitOK, "devices_online", "")
			for _, statement := range statements {
				for _, revoke := range revocations(statement) {
					database.Exec(t, revoke)
					if err := exercise(t, database, environ, login); err == nil {
						t.Errorf("nothing needs what this takes back: %s", revoke)
					}
					database.Exec(t, statement)
				}
			}
			if err := exercise(t, database, environ, login); err != nil {
				t.Errorf("with all of it again: %v", err)
			}
		})
	}
}

// exercise does once what a worker does, with one service that is not well.
func exercise(t *testing.T, database *pgtest.Database, environ []string, login string) error {
	t.Helper()
	database.Exec(t, "DELETE FROM fleet_alert WHERE tenant_id = '__system__'; DELETE FROM ops_worker_lease")
	var errs []error
	for _, cycle := range []string{"metrics", "health"} {
		if r := command(t, environ, "once", cycle); r.status != exitOK || strings.Contains(r.stderr, `"level":"error"`) || strings.Contains(r.stderr, schemaWarning) {
			errs = append(errs, fmt.Errorf("once %s: %s", cycle, r.stderr))
		}
	}
	pool := database.PoolAs(t, login)
	defer pool.Close()
	errs = append(errs, db.InTx(t.Context(), pool, db.ReadWrite, 5*time.Second, func(q *db.Queries) error {
		_, err := q.DeleteExpiredSamples(t.Context(), db.DeleteExpiredSamplesParams{Cutoff: time.Unix(0, 0), BatchSize: 1})
		return err
	}))
	return errors.Join(errs...)
}

const schemaWarning = "the schema is not brought up to date, the tables that stand are used"

func TestGrantsForWhatIsNotUsed(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	owner := environment(t, database)
	all := strings.Join(granted(t, owner, "nobody yet"), "\n")
	for _, want := range []string{`CREATE ROLE "nobody yet" LOGIN`, `GRANT USAGE ON SCHEMA public TO "nobody yet"`, "GRANT USAGE ON SEQUENCE public.fleet_alert_id_seq", "DELETE"} {
		if !strings.Contains(all, want) {
			t.Errorf("there is no %s in\n%s", want, all)
		}
	}
	less := strings.Join(granted(t, append(owner, "SYSTEM_ALERT_ENABLED=false", "METRICS_RETENTION=0"), "nobody yet"), "\n")
	for _, unused := range []string{"SEQUENCE", "DELETE", `INSERT, SELECT ON public."tenants"`} {
		if strings.Contains(less, unused) {
			t.Errorf("%s is granted without a use:\n%s", unused, less)
		}
	}
	// A role may be called by a word that SQL keeps for itself, or by several statements.
	for _, name := range []string{"user", `x"; DROP TABLE tenants; --`} {
		database.Exec(t, "BEGIN; "+strings.Join(granted(t, owner, name), ";")+"; ROLLBACK")
	}
	command(t, environment(t, pgtest.NewEmpty(t)), "grants", "x").want(t, exitFailed, "", "run `ops-worker migrate up` first")
	command(t, owner, "grants").want(t, exitUsage, "", "wants one argument")
}

// In a rolling upgrade the new worker may come before the owner's migration: it
// collects with the tables that stand, as the old one does.
func TestAMigrationThatIsForbiddenKeepsNobodyFromCollecting(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	environ := environment(t, database)
	role, login := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	database.Exec(t, strings.Join(granted(t, environ, role), ";")+"; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	database.Exec(t, "DROP TABLE ops_worker_streak; DELETE FROM ops_worker_schema_version WHERE version_id >= 3")
	command(t, append(slices.Clone(environ), "DATABASE_URL="+login), "once", "metrics").want(t, exitOK, "messages_received", schemaWarning)
	r := command(t, append(slices.Clone(environ), "DATABASE_URL="+login), "once", "health")
	r.want(t, exitFailed, "", "checks are not counted, each is enough for its alert")
	pgtest.WantRows(t, database.Pool(t), "SELECT status FROM fleet_alert WHERE fingerprint = 'system-health:evaluator'", "OPEN")
	database.Exec(t, "DROP TABLE service_health")
	command(t, append(slices.Clone(environ), "DATABASE_URL="+login), "once", "metrics").want(t, exitFailed, "", "permission denied")
}

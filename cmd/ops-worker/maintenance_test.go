package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ops_worker/internal/pgtest"
)

// newerPlatform is a database of a newer release, and the environment of a worker whose
// login role may only take on the operator's: row-level security is forced.
func newerPlatform(t *testing.T) (*pgtest.Database, []string) {
	t.Helper()
	database := pgtest.New(t)
	database.NewerTables(t)
	owner := environment(t, database)
	role, login := database.Role(t, "NOSUPERUSER NOBYPASSRLS NOINHERIT")
	database.Exec(t, granted(t, owner, role))
	return database, append(slices.Clone(owner), "DATABASE_URL="+login)
}

func TestMaintenanceWindows(t *testing.T) {
	t.Parallel()
	database, environ := newerPlatform(t)
	command(t, environ, "maintenance", "list").want(t, exitOK, "none: no maintenance window is on or to come\n", "")
	command(t, environ, "maintenance", "list", "--json").want(t, exitOK, "[]\n", "")
	command(t, environ, "maintenance", "end").want(t, exitFailed, "", "no one-time window is on")

	command(t, environ, "maintenance", "start", "--for", "2h", "--service", "ingest,evaluator", "--service", "postgres", "--reason", "upgrade\nof ingest").
		want(t, exitOK, "no system alert opens for ingest, evaluator, postgres until ", "")
	r := command(t, environ, "maintenance", "start", "--for", "7d", "--reason", "move")
	r.want(t, exitOK, "no system alert opens for all services until ", "")
	pool := database.Pool(t)
	pgtest.WantRows(t, pool, "SELECT name, metadata->>'kind' FROM tenants WHERE tenant_id = '__system__'", "System Alerts system")
	rows := pgtest.Rows(t, pool, `SELECT window_id, to_char(ends_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC') FROM alert_maintenance_windows
		WHERE tenant_id = '__system__' AND name = 'move' AND device_types IS NULL AND ends_at - starts_at = interval '7 days'`)
	if len(rows) != 1 {
		t.Fatalf("%q", rows)
	}
	id, until, _ := strings.Cut(rows[0], " ")
	if want := fmt.Sprintf("from the next health check on no system alert opens for all services until %s; `ops-worker maintenance end %s` ends that\n", until, id); r.stdout != want {
		t.Errorf("%q, want %q", r.stdout, want)
	}
	database.Exec(t, `INSERT INTO alert_maintenance_windows (tenant_id, window_id, name, starts_at, recurring) VALUES
		('__system__', 'w', 'backup', '2026-01-01 00:00Z', '{"dow": [0], "start_hour": 0, "end_hour": 24}'), ('__system__', 'odd', 'x', '2026-01-01 00:00Z', '5')`)
	r = command(t, environ, "maintenance", "list")
	r.want(t, exitOK, "ingest, evaluator, postgres", "")
	r.want(t, exitOK, "upgrade of ingest\n", "")
	r.want(t, exitOK, "Sunday 00:00 to 24:00 UTC, from 2026-01-01 00:00:00 UTC", "")
	r.want(t, exitOK, "recurring is not like", "")
	var listed []struct {
		ID, Fault string
		On        bool
		Services  []string
	}
	r = command(t, environ, "maintenance", "list", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &listed); err != nil || len(listed) != 4 || listed[0].ID != "odd" || listed[0].On || listed[0].Fault == "" ||
		!listed[2].On || len(listed[2].Services) != 3 || !listed[3].On || listed[3].ID != id {
		t.Errorf("%v: %s", err, r.stdout)
	}

	command(t, environ, "maintenance", "end", id, "nobody").want(t, exitFailed, "", `no window "nobody" is on or to come, so none was ended`)
	command(t, environ, "maintenance", "end", id).want(t, exitOK, "ended for all services: window "+id+" (move)\n", "")
	command(t, environ, "maintenance", "end", id).want(t, exitFailed, "", "is on or to come")
	command(t, environ, "maintenance", "end").want(t, exitOK, "(upgrade of ingest)\n", "")
	command(t, environ, "maintenance", "end", "w", "odd").want(t, exitOK, "window w (backup)\n", "")
	command(t, environ, "maintenance", "list").want(t, exitOK, "none: ", "")
}

func TestMaintenanceRefusesWhatWouldCoverSomethingElse(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=postgres://iot@127.0.0.1:1/iotcloud"}
	for want, args := range map[string][]string{
		"maintenance wants a command: start, list, end": {},
		"both are needed: --for":                        {"start", "--for", "2h"},
		"and --reason":                                  {"start", "--reason", "x"},
		"above 0":                                       {"start", "--for", "0", "--reason", "x"},
		"or a duration like 30s, 5m or 7d":              {"start", "--for", "soon", "--reason", "x"},
		"are needed":                                    {"start", "--for", "2h", "--reason", " "},
		`"ingst" is not monitored; perhaps ingest`:      {"start", "--for", "2h", "--reason", "x", "--service", "postgres,ingst"},
		`"keycloak" is not monitored; perhaps ingest, evaluator, postgres`: {"start", "--for", "2h", "--reason", "x", "--service", "ingest", "--service", "keycloak"},
		`"" is not monitored; perhaps ingest, evaluator, postgres`:         {"start", "--for", "2h", "--reason", "x", "--service", ""},
		`unknown command "x"`: {"list", "x"},
	} {
		command(t, environ, append([]string{"maintenance"}, args...)...).want(t, exitUsage, "", want)
	}
	command(t, []string{"PG_PORT=hunter2"}, "maintenance", "start", "--for", "2h", "--reason", "x").want(t, exitUsage, "", "PG_PORT: must be")
}

// An older release, and a database that is not the platform's at all.
func TestMaintenanceWithoutTheTable(t *testing.T) {
	t.Parallel()
	for name, database := range map[string]*pgtest.Database{"older": pgtest.New(t), "foreign": pgtest.NewEmpty(t)} {
		environ := environment(t, database)
		pool := database.Pool(t)
		const relations = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
		before := pgtest.Rows(t, pool, relations)
		for _, args := range [][]string{{"start", "--for", "1h", "--reason", "x"}, {"list"}, {"list", "--json"}, {"end"}, {"end", "x"}} {
			r := command(t, environ, append([]string{"maintenance"}, args...)...)
			r.want(t, exitFailed, "", "ops-worker: this release of the platform has no alert_maintenance_windows: ")
			if r.stdout != "" || strings.Count(r.stderr, "\n") != 1 {
				t.Errorf("%s, %v: %s%s", name, args, r.stdout, r.stderr)
			}
		}
		pgtest.WantRows(t, pool, relations, before...)
	}
}

func TestMaintenanceWithoutARight(t *testing.T) {
	t.Parallel()
	database, environ := newerPlatform(t)
	database.Exec(t, "REVOKE INSERT ON alert_maintenance_windows FROM pulse_operator")
	r := command(t, environ, "maintenance", "start", "--for", "1h", "--reason", "x")
	r.want(t, exitFailed, "", "permission denied for table alert_maintenance_windows")
	r.want(t, exitFailed, "", "`ops-worker grants ROLE` prints")
	pgtest.WantRows(t, database.Pool(t), "SELECT tenant_id FROM tenants WHERE tenant_id = '__system__'")
}

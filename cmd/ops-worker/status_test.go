package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"ops_worker/internal/pgtest"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	environ := append(environment(t, database), "TERM=xterm", "METRICS_COLLECTION_INTERVAL=5s")
	r := command(t, environ, "status")
	r.want(t, exitFailed, "", "none of the worker's tables is there: 127.0.0.1:")
	r.want(t, exitFailed, "", "`ops-worker migrate up` makes them")
	command(t, environ, "once", "health").want(t, exitOK, "HTTP 503", "")
	command(t, environ, "once", "metrics").want(t, exitOK, "messages_received            12", "")
	r = command(t, environ, "status")
	r.want(t, exitOK, "evaluator  degraded", "")
	r.want(t, exitOK, "! no worker leads", "")
	r.want(t, exitOK, "Service unhealthy: evaluator (HTTP 503)", "")
	r.want(t, exitOK, "db_size_bytes", "")
	if strings.Contains(r.stdout, "\x1b") {
		t.Errorf("colour in a pipe:\n%s", r.stdout)
	}

	r = command(t, environ, "status", "--json")
	var report struct {
		Services []struct{ Service, State string }
		Notices  []struct{ Kind string }
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || len(report.Services) != 3 || len(report.Notices) == 0 || report.Notices[0].Kind != "no_leader" {
		t.Errorf("%v: %s", err, r.stdout)
	}
}

// A database that cannot be reached is one line of every command: the cause, then host,
// database and user, and no secret.
func TestCommandsWithoutTheirDatabase(t *testing.T) {
	t.Parallel()
	database := pgtest.NewEmpty(t)
	wrong, err := url.Parse(database.URL)
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword(wrong.User.Username(), "hunter2")
	at := fmt.Sprintf("127.0.0.1:%s%s as %s", wrong.Port(), wrong.Path, wrong.User.Username())
	for name, test := range map[string]struct{ address, want string }{
		"unreachable":    {"postgres://iot:hunter2@127.0.0.1:1/iotcloud", "ops-worker: connection refused: 127.0.0.1:1/iotcloud as iot\n"},
		"wrong password": {wrong.String(), "ops-worker: FATAL: password authentication failed for user \"" + wrong.User.Username() + "\" (SQLSTATE 28P01): " + at + "\n"},
	} {
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"migrate", "up"}, {"migrate", "status"}, {"migrate", "down"}, {"grants", "x"}, {"once", "health"},
			{"maintenance", "start", "--for", "1h", "--reason", "x"}, {"maintenance", "list"}, {"maintenance", "end"}} {
			r := command(t, []string{"DATABASE_URL=" + test.address}, args...)
			if r.status != exitFailed || r.stdout != "" || r.stderr != test.want {
				t.Errorf("%s, %v: status %d\n%s\n%s", name, args, r.status, r.stdout, r.stderr)
			}
		}
	}
}

// A dry run shows what the services say without a database, and one line on that.
func TestADryRunWithoutItsDatabase(t *testing.T) {
	t.Parallel()
	r := command(t, []string{"DATABASE_URL=postgres://iot:hunter2@127.0.0.1:1/iotcloud", "LOG_LEVEL=CRITICAL"}, "once", "metrics", "--dry-run")
	if r.status != exitFailed || !strings.Contains(r.stdout, "healthy") || r.stderr != "ops-worker: connection refused: 127.0.0.1:1/iotcloud as iot\n" {
		t.Errorf("status %d\n%s\n%s", r.status, r.stdout, r.stderr)
	}
}

func TestStatusRefusesWhatItCannotDraw(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=postgres://iot@127.0.0.1:1/iotcloud", "TERM=xterm"}
	command(t, environ, "status", "--watch").want(t, exitUsage, "", "--watch needs a terminal")
	command(t, environ, "status", "--watch", "--json").want(t, exitUsage, "", "do not go together")
	command(t, environ, "status", "--watch", "--every", "10ms").want(t, exitUsage, "", "at least 1s")
	command(t, environ, "status", "--every", "soon").want(t, exitUsage, "", "invalid argument")
	command(t, environ, "status", "ingest").want(t, exitUsage, "", "unknown command")
	command(t, []string{"PG_PORT=hunter2"}, "status").want(t, exitUsage, "", "PG_PORT: must be")
}

package doctor

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGoldenHealthy(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	golden(t, s, "healthy", 0)
}

// TestGoldenBroken is a platform where much is wrong at once: a login role
// without rights, forced policies, a missing table and a missing column, a
// second writer, and a service that is down.
func TestGoldenBroken(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	role := s.as(t, "NOSUPERUSER NOBYPASSRLS")
	s.database.Exec(t, `
		GRANT SELECT ON ALL TABLES IN SCHEMA public TO `+role+`;
		GRANT INSERT, UPDATE ON service_health, system_metrics, ops_worker_lease, fleet_alert, tenants TO `+role+`;
		ALTER TABLE device_state ENABLE ROW LEVEL SECURITY;
		ALTER TABLE device_state FORCE ROW LEVEL SECURITY;
		DROP TABLE telemetry;
		ALTER TABLE operator_audit_log DROP COLUMN ip_address;
		INSERT INTO system_metrics (time, metric_name, service, value) VALUES (clock_timestamp(), 'connections', 'postgres', 1)`)
	s.env["EVALUATOR_HEALTH_URL"] = "http://" + refusing(t)
	s.env["KEYCLOAK_INTERNAL_URL"] = service(t, 503)
	s.env["HEALTH_CHECK_INTERVAL"] = "2"
	golden(t, s, "broken", 2)
}

func golden(t *testing.T, s *stage, name string, exit int) {
	t.Helper()
	r := s.run(t)
	if v := of(t, r, "server version"); v.Result == OK && r.ExitCode() != exit {
		t.Errorf("exit code %d, want %d", r.ExitCode(), exit)
	}
	for i := range r.Checks {
		c := &r.Checks[i]
		c.Found, c.Advice = normalised(s, c.Found), normalised(s, c.Advice)
		if c.Name == "server version" { // the machine's
			*c = Check{Name: c.Name, Result: OK, Found: []string{"PostgreSQL VERSION"}}
		}
	}
	got := text(t, r)
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; with -update it is written anew.\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

// volatile is what differs from run to run and from machine to machine.
var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(\d{1,3}\.){3}\d{1,3}(:\d+)?|\[?::1\]?(:\d+)?|localhost(:\d+)?`), "ADDRESS"},
	{regexp.MustCompile(`\d\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d`), "DATE"},
	{regexp.MustCompile(`\d+\.\d ms`), "LATENCY"},
	{regexp.MustCompile(`\d+ of \d+ are in use, \d+ of`), "N of N are in use, N of"},
	{regexp.MustCompile(`^\d+ x`), "N x"},
	{regexp.MustCompile(`\b\d+(\.\d+)?(m\d*s?|s|h\d+m) (ago|old|more|behind|ahead|apart)`), "AGE $3"},
	{regexp.MustCompile(`not monitored, as unset: .*`), "not monitored, as unset: SERVICES"},
	{regexp.MustCompile(`role_[a-z0-9]+`), "ROLE"},
	{regexp.MustCompile(`test_[a-z0-9]+`), "DATABASE"},
}

func normalised(s *stage, lines []string) []string {
	var result []string
	user := s.pool.Config().ConnConfig.User
	superuser := strings.NewReplacer(user+": superuser", "USER: superuser", user+" may", "USER may", "as "+user, "as USER")
	for _, line := range lines {
		line = superuser.Replace(line)
		for _, v := range volatile {
			line = v.pattern.ReplaceAllString(line, v.with)
		}
		if !slices.Contains(result, line) {
			result = append(result, line)
		}
	}
	return result
}

package doctor

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"

	"ops_worker/db"
)

func TestExitCode(t *testing.T) {
	t.Parallel()
	for want, results := range map[int][][]Result{
		0: {{}, {OK}, {OK, Skipped}},
		1: {{OK, Warn}, {Warn, Skipped, OK}},
		2: {{Fail}, {OK, Fail, Warn}, {Warn, Fail, OK}},
	} {
		for _, list := range results {
			var r Report
			for _, result := range list {
				r.Checks = append(r.Checks, Check{Result: result})
			}
			if got := r.ExitCode(); got != want {
				t.Errorf("%v: exit code %d, want %d", list, got, want)
			}
		}
	}
}

func TestTheReportIsATable(t *testing.T) {
	t.Parallel()
	r := Report{Checks: []Check{
		{Name: "one", Result: OK, Found: []string{"well"}},
		{Name: "row security", Result: Fail, Found: []string{"a line", "a second line"}, Advice: []string{"do it"}},
		{Name: "none", Result: Skipped},
	}}
	const want = `CHECK         RESULT   FOUND, AND WHAT TO DO
one           ok       well
row security  fail     a line
                       a second line
                       -> do it
none          skipped  -

3 checks: 1 ok, 0 warn, 1 fail, 1 skipped
`
	if got := text(t, r); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	r := Report{Checks: []Check{
		{Name: "clock", Result: Warn, Found: []string{"off"}, Advice: []string{"set it"}},
		{Name: "size", Result: OK, Found: []string{"small"}},
	}}
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"checks":[{"name":"clock","result":"warn","found":["off"],"advice":["set it"]},{"name":"size","result":"ok","found":["small"]}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestVerdicts runs checks on facts that no server here can show.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	public, private := &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 5432}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 5432}
	for name, test := range map[string]struct {
		found  connection
		check  string
		result Result
		words  string
		advice string
	}{
		"PostgreSQL 14": {connection{server: db.DoctorServerRow{Version: "14.9", VersionNum: 140009}}, "server version", Fail, "security_invoker", "upgrade"},
		"PostgreSQL 17": {connection{server: db.DoctorServerRow{Version: "17.1", VersionNum: 170001}}, "server version", OK, "17.1", ""},
		"in the open":   {connection{remote: public}, "encryption", Warn, "203.0.113.7:5432", "sslmode=verify-full"},
		"at home":       {connection{remote: private}, "encryption", OK, "private address", ""},
		"encrypted":     {connection{remote: public, tls: true}, "encryption", OK, "TLS from here to 203.0.113.7:5432", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &run{limits: defaultLimits, connection: test.found}
			r.connection.stands = true
			got := r.examine(t.Context(), checks[slices.IndexFunc(checks, func(c check) bool { return c.name == test.check })])
			if words, advice := strings.Join(got.Found, "\n"), strings.Join(got.Advice, "\n"); got.Result != test.result || !strings.Contains(words, test.words) || !strings.Contains(advice, test.advice) {
				t.Errorf("%s: %q, %q; want %s: %q, %q", got.Result, words, advice, test.result, test.words, test.advice)
			}
		})
	}
}

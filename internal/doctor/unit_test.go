package doctor

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"ops_worker/db"
	"ops_worker/internal/schema"
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

func TestALongCheckIsCutShort(t *testing.T) {
	t.Parallel()
	found := slices.Repeat([]string{"it is not well"}, 2000)
	page := text(t, Report{Checks: []Check{{Name: "services", Result: Fail, Found: found, Advice: found}}})
	if n := strings.Count(page, "\n"); n > 2*mostFound+10 || strings.Count(page, "and 1960 more") != 2 || !strings.Contains(page, "--json shows all") {
		t.Errorf("%d lines:\n%s", n, page)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	r := Report{Checks: []Check{
		{Name: "one", Result: OK, Found: []string{"well"}},
		{Name: "row security", Result: Fail, Found: []string{strings.Repeat("word ", 40), "a second line"},
			Advice: []string{strings.Repeat("do ", 50)}},
		{Name: "none", Result: Skipped},
	}}
	const want = `CHECK         RESULT   FOUND, AND WHAT TO DO
one           ok       well
row security  fail     word word word word word word word word word word word word word word word word word word word
                         word word word word word word word word word word word word word word word word word word word
                         word word
                       a second line
                       -> do do do do do do do do do do do do do do do do do do do do do do do do do do do do do do do
                          do do do do do do do do do do do do do do do do do do do
none          skipped  -

3 checks: 1 ok, 0 warn, 1 fail, 1 skipped
`
	if got := text(t, r); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	for line := range strings.Lines(text(t, r)) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > defaultWidth {
			t.Errorf("a line of %d characters: %s", n, line)
		}
	}
}

func TestChecksSkippedForOneReasonAreOneLine(t *testing.T) {
	t.Parallel()
	r := Report{Checks: []Check{{Name: "connection", Result: Fail, Found: []string{"refused"}}}}
	for _, name := range []string{"role", "schema", "tables"} {
		r.Checks = append(r.Checks, Check{Name: name, Result: Skipped, Found: []string{"there is no connection"}})
	}
	got := text(t, r)
	if strings.Count(got, "there is no connection") != 1 || !strings.Contains(got, "3 checks    skipped  there is no connection\n") ||
		!strings.Contains(got, "role, schema, tables") || !strings.Contains(got, "4 checks: 0 ok, 0 warn, 1 fail, 3 skipped") {
		t.Errorf("got:\n%s", got)
	}
}

func TestTheTableFitsTheTerminal(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := (Report{Checks: []Check{{Name: "one", Result: OK, Found: []string{strings.Repeat("word ", 100)}}}}).print(&out, 80); err != nil {
		t.Fatal(err)
	}
	longest := 0
	for line := range strings.Lines(out.String()) {
		longest = max(longest, utf8.RuneCountInString(strings.TrimRight(line, "\n")))
	}
	if longest > 80 || longest < 70 {
		t.Errorf("the longest line has %d characters", longest)
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
	public := link{remote: &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 5432}}
	private := link{remote: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 5432}}
	encrypted := public
	encrypted.tls = true
	login := cached[session]{known: true, value: session{db.DescribeSessionRow{LoginRole: "iot"}, "iot"}}
	role := func(r db.DoctorRoleRow) *run {
		r.LoginRole = "iot"
		return &run{session: login, migrations: cached[migrationState]{known: true}, role: cached[db.DoctorRoleRow]{known: true, value: r}}
	}
	chunks := func(change func(*timescale)) *run {
		ts := &timescale{"2.28", &schema.Hypertable{ChunkSeconds: 3600}}
		if err := json.Unmarshal([]byte(`[{"id": 1000, "name": "policy_retention", "scheduled": true, "drop_seconds": 604800}]`), &ts.Jobs); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(ts)
		}
		x := &run{timescale: cached[*timescale]{known: true, value: ts}}
		x.cfg.MetricsRetention = 7 * 24 * time.Hour
		return x
	}
	for name, test := range map[string]struct {
		x      *run
		check  string
		result Result
		found  string
		advice string
	}{
		"PostgreSQL 12": {&run{server: db.DoctorServerRow{Version: "12.3", VersionNum: 120003}}, "server version", Fail, "gen_random_uuid", "upgrade"},
		"PostgreSQL 14": {&run{server: db.DoctorServerRow{Version: "14.9", VersionNum: 140009}}, "server version", Warn, "security_invoker", "upgrade"},
		"PostgreSQL 17": {&run{server: db.DoctorServerRow{Version: "17.1", VersionNum: 170001}}, "server version", OK, "17.1", ""},
		"in the open":   {&run{link: public}, "encryption", Warn, "203.0.113.7:5432", "sslmode=verify-full"},
		"at home":       {&run{link: private}, "encryption", OK, "private address", ""},
		"encrypted":     {&run{link: encrypted, server: db.DoctorServerRow{Ssl: true, SslVersion: "TLSv1.3"}}, "encryption", OK, "TLSv1.3", ""},
		"to the pooler": {&run{link: encrypted}, "encryption", OK, "the pooler between ends it", ""},
		"no operator":   {role(db.DoctorRoleRow{UsesSchema: true}), "role", Fail, "pulse_operator does not exist", "GRANT pulse_operator TO iot"},
		"a bound operator": {role(db.DoctorRoleRow{UsesSchema: true, OperatorExists: true}), "role", Warn, "has no BYPASSRLS",
			"ALTER ROLE pulse_operator BYPASSRLS"},
		"an operator without the schema": {role(db.DoctorRoleRow{UsesSchema: true, OperatorExists: true, OperatorBypasses: true}), "role", Fail,
			"may not use the schema public", "GRANT USAGE ON SCHEMA public TO pulse_operator"},
		"hypertable": {chunks(nil), "timescaledb", OK, "retention policy: dropped after 7d, as METRICS_RETENTION", ""},
		"not converted": {chunks(func(ts *timescale) { ts.Hypertable = nil }), "timescaledb", Warn, "no hypertable",
			"create_hypertable('system_metrics'"},
		"large chunks": {chunks(func(ts *timescale) { ts.ChunkSeconds = 604800 }), "timescaledb", Warn, "up to 7d longer",
			"set_chunk_time_interval"},
		"a job that sleeps": {chunks(func(ts *timescale) { ts.Jobs[0].Scheduled = false }), "timescaledb", Warn, "policy_retention",
			"alter_job(1000, scheduled => true)"},
		"another retention": {chunks(func(ts *timescale) { *ts.Jobs[0].DropSeconds = 86400 }), "timescaledb", OK, "dropped after 1d; METRICS_RETENTION is another", ""},
		"no policy":         {chunks(func(ts *timescale) { ts.Jobs = nil }), "timescaledb", OK, "the worker drops chunks older than 7d", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range checks {
				if c.name != test.check {
					continue
				}
				test.x.limits = defaultLimits
				got := test.x.examine(t.Context(), c)
				if found := strings.Join(got.Found, "\n"); got.Result != test.result || !strings.Contains(found, test.found) {
					t.Errorf("%s: %q, want %s: %q", got.Result, found, test.result, test.found)
				}
				if advice := strings.Join(got.Advice, "\n"); !strings.Contains(advice, test.advice) {
					t.Errorf("advice %q, want %q", advice, test.advice)
				}
			}
		})
	}
}

func TestIdent(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"iot": "iot", "iot-app": `"iot-app"`, `a"b`: `"a""b"`, "Iot": `"Iot"`} {
		if got := schema.Ident(name); got != want {
			t.Errorf("db.Ident(%s) = %s, want %s", name, got, want)
		}
	}
	if got, want := literal("a'b"), "'a''b'"; got != want {
		t.Errorf("literal = %s, want %s", got, want)
	}
}

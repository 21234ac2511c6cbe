package doctor

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/certtest"
	"ops_worker/internal/config"
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

// answering is a URL at which a service answers so.
func answering(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// The advice is what mends the setting: a service that answers need not be started.
func TestAdviceForAService(t *testing.T) {
	t.Parallel()
	ours, theirs := certtest.New(t), certtest.New(t)
	secured := func(pair certtest.Pair) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair.Load(t)}}
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL
	}
	text := answering(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
	status := func(code int) string {
		return answering(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	redirect := answering(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://u:s3cret@sso.example/login?s3cret#s3cret", http.StatusFound)
	})
	const renew = "renew the certificate of billing"
	for name, test := range map[string]struct {
		env    string
		result Result
		found  string
		advice string
	}{
		"not JSON":             {"INGEST_HEALTH_URL=" + text, Fail, "ingest: unknown, the answer is not JSON", "correct INGEST_HEALTH_URL: what answers there is not ingest, which answers JSON"},
		"a redirect":           {"INGEST_HEALTH_URL=" + redirect, Warn, "ingest: degraded, HTTP 302", "correct INGEST_HEALTH_URL: no redirect is followed, and this one leads to https://sso.example"},
		"a wrong path":         {"KEYCLOAK_INTERNAL_URL=" + status(404), Warn, "keycloak: degraded, HTTP 404", "correct KEYCLOAK_REALM, or KEYCLOAK_INTERNAL_URL: keycloak answers, but has nothing at that path"},
		"another wrong path":   {"HEALTH_SERVICES=billing=" + status(404) + "/s3cret", Warn, "billing: degraded, HTTP 404", "correct HEALTH_SERVICES: billing answers, but has nothing at that path"},
		"an error":             {"INGEST_HEALTH_URL=" + status(500), Warn, "ingest: degraded, HTTP 500", "see the log of ingest"},
		"another instance":     {"INGEST_HEALTH_URL=" + answering(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }) + "," + text, Warn, "ingest: degraded, 1 of 2 instances: the answer is not JSON", "correct INGEST_HEALTH_URL: what answers there is not ingest, which answers JSON"},
		"nobody listens":       {"HEALTH_SERVICES=billing=tcp://" + refusing(t), Fail, "billing: down, connection refused", "start billing, or correct HEALTH_SERVICES"},
		"no TLS":               {"HEALTH_SERVICES=billing=" + strings.Replace(text, "http:", "tls:", 1), Fail, "billing: unknown, tls: first record", "correct HEALTH_SERVICES: billing speaks no TLS at that port"},
		"it ends soon":         {"HEALTH_SERVICES=billing=" + secured(ours.Issue("127.0.0.1", 50*time.Hour)), Warn, "billing: the certificate ends in 2d1h, on ", renew},
		"it does not":          {"HEALTH_SERVICES=billing=" + secured(ours.Issue("127.0.0.1", 15*24*time.Hour)), OK, "healthy: billing", ""},
		"a webhook":            {"ALERT_WEBHOOK_URL=" + secured(ours.Issue("127.0.0.1", 15*24*time.Hour)) + "/hunter2", OK, "healthy: alert webhook", ""},
		"no webhook":           {"ALERT_WEBHOOK_URL=http://127.0.0.1:1/hunter2", Fail, "alert webhook: down, connection refused", "start alert webhook, or correct ALERT_WEBHOOK_URL"},
		"no switch":            {"HEARTBEAT_URL=http://127.0.0.1:1/hunter2", Fail, "dead man's switch: down, connection refused", "start dead man's switch, or correct HEARTBEAT_URL"},
		"it has ended":         {"HEALTH_SERVICES=billing=" + secured(ours.Issue("127.0.0.1", -time.Hour)), Fail, "certificate has expired", renew},
		"a wrong name":         {"HEALTH_SERVICES=billing=" + strings.Replace(secured(ours.Issue("127.0.0.2", time.Hour*999)), "https:", "tls:", 1), Fail, "certificate is valid for 127.0.0.2, not 127.0.0.1", "correct the host in HEALTH_SERVICES, or give billing a certificate for it"},
		"an unknown authority": {"HEALTH_SERVICES=billing=" + secured(theirs.Issue("127.0.0.1", time.Hour*999)), Fail, "certificate signed by unknown authority", "put the authority that signed the certificate of billing into the file of HEALTH_CA_FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.FromEnvironment([]string{test.env, "HEALTH_CA_FILE=" + ours.File})
			if err != nil {
				t.Fatal(err)
			}
			variable, _, _ := strings.Cut(test.env, "=")
			cfg.Services = slices.DeleteFunc(cfg.Services, func(s config.Service) bool { return s.Variable != variable })
			r := &run{services: probeServices(t.Context(), cfg, nil, nil, 10*time.Second)}
			defer r.services.probing.Wait()
			f := &findings{result: OK}
			if err := checkServices(t.Context(), r, f); err != nil {
				t.Fatal(err)
			}
			if f.result != test.result || !strings.Contains(strings.Join(f.found, "\n"), test.found) || strings.Join(f.advice, "\n") != test.advice {
				t.Errorf("%+v, want %s %q %q", f, test.result, test.found, test.advice)
			}
		})
	}
}

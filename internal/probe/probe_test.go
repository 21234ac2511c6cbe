package probe

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ops_worker/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// only is the probe of a name that is one instance.
func only(a asking) Probe { return a.at(netip.Addr{}) }

// named selects the numbers that a test's service is known for.
func named(name string) bool { return name == "queue_depth" || name == "pending" }

// probing returns what a probe makes of handler's answer.
func probing(t *testing.T, handler http.HandlerFunc) Reading {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	client := NewClient(config.Config{Instances: true})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return only(client.counters(server.URL+"/health", named))(ctx)
}

// compressed answers with gzip, whatever is asked for.
func compressed(text string) http.HandlerFunc {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write([]byte(text)) // a buffer takes all
	w.Close()
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed.Bytes())
	}
}

func body(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func TestProbeOfAnAnswer(t *testing.T) {
	deep := strings.Repeat("[", 1<<19) + strings.Repeat("]", 1<<19)
	for name, test := range map[string]struct {
		handler  http.HandlerFunc
		status   Status
		err      string
		counters map[string]float64
	}{
		"with counters":              {body(`{"counters":{"queue_depth":3,"x":1.5e3},"status":"healthy"}`), Healthy, "", map[string]float64{"queue_depth": 3, "x": 1500}},
		"without counters":           {body(`{"status":"healthy"}`), Healthy, "", map[string]float64{}},
		"counters of another shape":  {body(`{"counters":[1,2]}`), Healthy, "", nil},
		"counters null":              {body(`{"counters":null}`), Healthy, "", nil},
		"an array":                   {body(`[1,2,3]`), Healthy, "", nil},
		"a number":                   {body(`7`), Healthy, "", nil},
		"nested values are skipped":  {body(`{"a":{"counters":{"no":1}},"counters":{"yes":1,"deep":{"x":[1]}},"z":[{}]}`), Healthy, "", map[string]float64{"yes": 1}},
		"numbers in strings are not": {body(`{"counters":{"queue_depth":"3","flag":true}}`), Healthy, "", map[string]float64{}},
		"a number out of range":      {body(`{"counters":{"queue_depth":1e999}}`), Healthy, "", map[string]float64{}},
		"a name with a NUL":          {body(`{"counters":{"a\u0000b":1}}`), Healthy, "", map[string]float64{}},
		"no JSON":                    {body(`<html>`), Unknown, "the answer is not JSON", nil},
		"two JSON values":            {body(`{} {}`), Unknown, "the answer is not JSON", nil},
		"empty":                      {body(``), Unknown, "the answer is not JSON", nil},
		"cut off":                    {body(`{"counters":{"a":1`), Unknown, "the answer is not JSON", nil},
		"nested without end":         {body(deep), Unknown, "the answer is not JSON", nil},
		"too long":                   {body(`{"a":"` + strings.Repeat("x", maxBody) + `"}`), Unknown, "the answer is longer than 1 MiB", nil},
		"a byte order mark":          {body("\ufeff" + `{"counters":{"queue_depth":3}}`), Healthy, "", map[string]float64{"queue_depth": 3}},
		"compressed":                 {compressed(`{"counters":{"queue_depth":3}}`), Healthy, "", map[string]float64{"queue_depth": 3}},
		"compressed, too long":       {compressed(`{"a":"` + strings.Repeat("x", 8*maxBody) + `"}`), Unknown, "the answer is longer than 1 MiB", nil},
		"an error":                   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, Degraded, "", nil},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}, Degraded, "", nil},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, Degraded, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := probing(t, test.handler)
			if r.Status != test.status || r.Err != test.err || r.Latency <= 0 {
				t.Errorf("reading: %+v", r)
			}
			if diff := cmp.Diff(test.counters, r.Counters); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProbeOfAnExtraService(t *testing.T) {
	t.Parallel()
	answering := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	for name, test := range map[string]struct {
		handler  http.HandlerFunc
		status   Status
		counters map[string]float64
		location string
	}{
		"counters":          {answering(200, `{"counters":{"jobs":3}}`), Healthy, map[string]float64{"jobs": 3}, ""},
		"counters of a 201": {answering(201, `{"counters":{"jobs":3}}`), Healthy, map[string]float64{"jobs": 3}, ""},
		"plain text":        {answering(200, "Prometheus Server is Healthy.\n"), Healthy, nil, ""},
		"no body":           {answering(200, ""), Healthy, nil, ""},
		"no content":        {answering(204, ""), Healthy, nil, ""},
		"more than is read": {answering(200, strings.Repeat("x", 3*maxBody)), Healthy, nil, ""},
		"a body that breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			fmt.Fprint(w, "{}")
		}, Healthy, nil, ""},
		"a gzip that is none": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			fmt.Fprint(w, "{}")
		}, Healthy, nil, ""},
		"a stream": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "data: 1\n\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, Healthy, nil, ""},
		"status says it is ill":  {answering(200, `{"status":"unhealthy","counters":7}`), Healthy, nil, ""},
		"an error":               {answering(503, `{"counters":{"jobs":3}}`), Degraded, nil, ""},
		"a wrong path":           {answering(404, ""), Degraded, nil, ""},
		"a redirect":             {redirect("https://u:hunter2@sso.example:8443/login?token=hunter2#hunter2"), Degraded, nil, "https://sso.example:8443"},
		"a redirect to nowhere":  {redirect("http://["), Degraded, nil, ""},
		"a redirect that draws":  {redirect("https://a/%1b[2J\u202e"), Degraded, nil, "https://a"},
		"not modified, and else": {answering(304, ""), Degraded, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.handler)
			defer server.Close()
			target := Targets([]config.Service{{Name: "x", Extra: true, Addresses: []string{server.URL + "/up"}}}, NewClient(config.Config{}), nil)[0]
			r := Observe(t.Context(), []Target{target}, 2*time.Second)[0]
			if r.Status != test.status || r.Err != "" || r.Location != test.location {
				t.Errorf("reading: %+v", r)
			}
			if diff := cmp.Diff(test.counters, r.Counters); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A proxy of the environment is not used: the answer would be the proxy's. The name is no
// local one, which no proxy would be asked for.
func TestNoProxyIsUsed(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	requested := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requested <- r.RequestURI }))
	defer server.Close()
	client := NewClient(config.Config{})
	var names records
	names.set("127.0.0.1")
	client.Resolver = &names
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	r := only(client.extra("http://service.example:" + port + "/up"))(t.Context())
	if r.Status != Healthy {
		t.Fatalf("reading: %+v", r)
	}
	if uri := <-requested; uri != "/up" {
		t.Errorf("the service was asked for %s, as a proxy is", uri)
	}
}

func TestProbeTakesNoMoreCountersThanItMayKeep(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"counters":{`)
	for i := range 5000 {
		fmt.Fprintf(&b, `"counter_%d":%d,`, i, i)
	}
	b.WriteString(`"queue_depth":9,"pending":8}}`)
	r := probing(t, body(b.String()))
	if len(r.Counters) != maxCounters+2 || r.LeftOut != 5000-maxCounters {
		t.Errorf("%d counters and %d left out", len(r.Counters), r.LeftOut)
	}
	if r.Counters["queue_depth"] != 9 {
		t.Error("a counter of the contract is lost behind others")
	}
}

func TestProbeTimesOutOverTheWholeExchange(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"before the header": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"within the body": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, `{"counters":`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(handler)
			defer server.Close()
			client := NewClient(config.Config{Instances: true})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			r := only(client.counters(server.URL+"/health", named))(ctx)
			if r.Status != Unknown || !strings.HasPrefix(r.Err, "no answer within ") || r.Latency != 0 {
				t.Errorf("reading: %+v", r)
			}
		})
	}
}

func TestProbeSendsTheTraceIDOfItsCycle(t *testing.T) {
	got := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- r.Header.Get("X-Trace-ID") }))
	defer server.Close()
	client := NewClient(config.Config{Instances: true})
	ctx := WithTraceID(t.Context(), "0a1b2c3d")
	only(client.status(server.URL))(ctx)
	if id := <-got; id == "" || id != TraceID(ctx) {
		t.Errorf("trace id %q, want %q", id, TraceID(ctx))
	}
}

func TestProbeSendsTheUserOfItsURL(t *testing.T) {
	got := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		got <- user + " " + password
	}))
	defer server.Close()
	client := NewClient(config.Config{Instances: true})
	only(client.status(strings.Replace(server.URL, "http://", "http://monitor:s%40crets@", 1)))(t.Context())
	if user := <-got; user != "monitor s@crets" {
		t.Errorf("the service saw %q", user)
	}
}

func TestProbeTellsNoSecretOfItsURL(t *testing.T) {
	client := NewClient(config.Config{Instances: true})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, url := range []string{
		"http://user:hunter2@127.0.0.1:1/health?token=hunter2",
		"http://user:hunter2@host.invalid/health?token=hunter2",
		"http://127.0.0.1:notaport/hunter2",
		"https://hunter2.invalid:99999/hunter2",
	} {
		r := only(client.counters(url, named))(ctx)
		if r.Status == Healthy || r.Err == "" || strings.Contains(r.Err, "hunter2/") || strings.Contains(r.Err, "token") || strings.Contains(r.Err, "user:") {
			t.Errorf("reading of a URL with secrets: %+v", r)
		}
	}
}

func TestTCPProbe(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	probe := only(NewClient(config.Config{Instances: true}).tcp(listener.Addr().String()))
	if r := probe(t.Context()); r.Status != Healthy || r.Latency <= 0 {
		t.Errorf("reading: %+v", r)
	}
	listener.Close()
	if r := probe(t.Context()); r.Status != Down || r.Err != "connection refused" {
		t.Errorf("reading: %+v", r)
	}
}

func TestADatabaseWhoseNameDoesNotExistIsDown(t *testing.T) {
	t.Parallel()
	gone := query(func(context.Context) error {
		return fmt.Errorf("connect: %w", &net.DNSError{Err: "no such host", Name: "db", Server: "10.9.9.9:53", IsNotFound: true})
	})
	if r := gone(t.Context()); r.Status != Down || r.Err != "no such host" {
		t.Errorf("reading: %+v", r)
	}
}

// No connection is down; one that takes too long, or an answer that breaks off, is unknown.
func TestWhatAnErrorSaysOfAService(t *testing.T) {
	t.Parallel()
	dialling := func(err error) error { return &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)} }
	for name, test := range map[string]struct {
		err    error
		status Status
		reason string
	}{
		"refused":             {dialling(syscall.ECONNREFUSED), Down, "connection refused"},
		"host unreachable":    {dialling(syscall.EHOSTUNREACH), Down, "host unreachable"},
		"network unreachable": {dialling(syscall.ENETUNREACH), Down, "network unreachable"},
		"no such host":        {errNoHost, Down, "no such host"},
		"connect time-out":    {dialling(syscall.ETIMEDOUT), Unknown, "no answer within 0s"},
		"reset":               {dialling(syscall.ECONNRESET), Unknown, "dial: connect: connection reset by peer"},
		"broken off":          {io.ErrUnexpectedEOF, Unknown, "the connection was closed before the answer was whole"},
	} {
		if r := failedReading(t.Context(), test.err, time.Now()); r.Status != test.status || r.Reason() != test.reason {
			t.Errorf("%s: %s, %q", name, r.Status, r.Reason())
		}
	}
}

func TestATLSProbeOfAServiceWithoutTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(body("{}"))
	defer server.Close()
	if r := only(NewClient(config.Config{}).tls(server.Listener.Addr().String()))(t.Context()); r.Status != Unknown || !strings.Contains(r.Err, "does not look like a TLS handshake") {
		t.Errorf("reading: %+v", r)
	}
}

func FuzzParseCounters(f *testing.F) {
	f.Add([]byte(`{"counters":{"a":1,"b":{"c":[2]}},"counters":{"queue_depth":1e400}}`))
	f.Add([]byte(`{"counters":[{}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		counters, _, err := parseCounters(body, named)
		if err != nil && counters != nil {
			t.Error("an answer that is no JSON has counters")
		}
		for name := range counters {
			if !counterName().MatchString(name) {
				t.Errorf("counter %q", name)
			}
		}
	})
}

func TestTargetsAreAskedInTheirOwnWay(t *testing.T) {
	paths := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths <- r.URL.RequestURI()
		fmt.Fprint(w, "{}")
	}))
	defer server.Close()
	client := NewClient(config.Config{Instances: true})
	pinged := false
	targets := Targets([]config.Service{
		{Name: "ingest", Kind: config.ProbeCounters, Addresses: []string{server.URL + "/health"}},
		{Name: "keycloak", Kind: config.ProbeStatus, Addresses: []string{server.URL + "/realms/other"}},
		{Name: "mqtt", Kind: config.ProbeTCP, Addresses: []string{server.Listener.Addr().String()}},
		{Name: "postgres", Kind: config.ProbeDatabase},
	}, client, func(context.Context) error { pinged = true; return nil })
	for _, o := range Observe(t.Context(), targets, 5*time.Second) {
		if o.Status != Healthy {
			t.Errorf("%+v", o)
		}
	}
	close(paths)
	if diff := cmp.Diff([]string{"/health", "/realms/other"}, slices.Sorted(maps.Keys(collectSet(paths)))); diff != "" || !pinged {
		t.Errorf("pinged: %v, %s", pinged, diff)
	}
}

func collectSet(values <-chan string) map[string]bool {
	set := map[string]bool{}
	for v := range values {
		set[v] = true
	}
	return set
}

func TestProbeReadsNoMoreThanItMay(t *testing.T) {
	written := make(chan int, 1)
	r := probing(t, func(w http.ResponseWriter, _ *http.Request) {
		total := 0
		defer func() { written <- total }()
		for total < 256<<20 {
			n, err := w.Write(make([]byte, 64<<10))
			if total += n; err != nil {
				return
			}
		}
	})
	if r.Status != Unknown || r.Err != "the answer is longer than 1 MiB" {
		t.Errorf("reading: %+v", r)
	}
	if n := <-written; n > 64<<20 { // the sockets' buffers hold some
		t.Errorf("the service could send %d bytes", n)
	}
}

func TestNoServiceWaitsForOthers(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		fmt.Fprint(w, "{}")
	}))
	defer server.Close()
	defer close(release)
	client := NewClient(config.Config{Instances: true})
	var targets []Target
	for range 40 {
		targets = append(targets, Target{Probe: only(client.status(server.URL + "/hang"))})
	}
	targets = append(targets, Target{Probe: only(client.status(server.URL + "/well"))})
	observations := Observe(t.Context(), targets, time.Second)
	if well := observations[40]; well.Status != Healthy {
		t.Errorf("a service behind 40 that hang: %+v", well)
	}
}

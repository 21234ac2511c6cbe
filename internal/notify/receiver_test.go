package notify

import (
	"bufio"
	"context"
	"crypto/x509"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"ops_worker/internal/logtest"
)

// secret is in the path, the query and the user of the URLs.
const secret = "s3cret"

// withSecrets puts the secret wherever a URL may have one.
func withSecrets(origin string) string {
	scheme, host, _ := strings.Cut(origin, "://")
	return scheme + "://user-" + secret + ":password-" + secret + "@" + host + "/path-" + secret + "?query=" + secret
}

// running runs a webhook, which has an alert to tell, until the test ends.
func running(t *testing.T, o Options) *Webhook {
	t.Helper()
	w := New(o)
	w.Tell(time.Now(), openings("ingest"), []Alert{down("ingest")})
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	running.Go(func() { w.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return w
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestARequest(t *testing.T) {
	came := make(chan *http.Request, 10)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength != int64(len(body)) {
			t.Errorf("%d bytes of %d: %v", len(body), r.ContentLength, err)
		}
		w.WriteHeader(http.StatusAccepted)
		came <- r
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	log := &logtest.Log{}
	w := running(t, Options{URL: withSecrets(server.URL), Format: JSON, CAs: roots, Log: log.Logger()})
	heartbeat := NewHeartbeat(withSecrets(server.URL), roots, log.Logger())
	go heartbeat.Run(t.Context())
	post := <-came
	heartbeat.Stored()
	get := <-came
	for method, r := range map[string]*http.Request{"POST": post, "GET": get} {
		user, password, _ := r.BasicAuth()
		equal(t, "method", r.Method, method)
		equal(t, "URL", r.RequestURI, "/path-s3cret?query=s3cret")
		equal(t, "user", user+" "+password, "user-s3cret password-s3cret")
		equal(t, "User-Agent", r.Header.Get("User-Agent"), "ops_worker")
		if err := uuid.Validate(r.Header.Get("X-Trace-ID")); err != nil {
			t.Error(err)
		}
	}
	equal(t, "Content-Type", post.Header.Get("Content-Type"), "application/json")
	if post.Header.Get("X-Trace-ID") == get.Header.Get("X-Trace-ID") {
		t.Error("two requests have the same trace id")
	}
	eventually(t, "it counts as told", func() bool { return len(w.Tell(time.Now(), openings("ingest"), nil)) == 1 })
	if strings.Contains(log.String(), secret) {
		t.Error(log)
	}
}

// A failure is logged without the secrets of the URL, also where the server repeats them.
func TestFailures(t *testing.T) {
	handler := func(handle http.HandlerFunc) func(*testing.T) string {
		return func(t *testing.T) string {
			server := httptest.NewServer(handle)
			t.Cleanup(server.Close)
			return server.URL
		}
	}
	for want, start := range map[string]func(*testing.T) string{
		"HTTP status 500": handler(func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.RequestURI, http.StatusInternalServerError)
		}),
		"HTTP status 307, a redirect, which is not followed": handler(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/elsewhere") {
				t.Error("the redirect was followed")
			}
			http.Redirect(w, r, "/elsewhere"+r.RequestURI, http.StatusTemporaryRedirect)
		}),
		"the connection was closed without an answer": raw(func(conn net.Conn) {
			_, _ = bufio.NewReader(conn).ReadString('\n')
		}),
		"no valid HTTP answer, or none from the proxy": raw(func(conn net.Conn) { // an echo
			line, _ := bufio.NewReader(conn).ReadString('\n')
			_, _ = io.WriteString(conn, line)
		}),
		"connect: connection refused": func(t *testing.T) string {
			server := httptest.NewServer(nil)
			server.Close()
			return server.URL
		},
		"certificate signed by unknown authority": func(t *testing.T) string {
			server := httptest.NewUnstartedServer(nil)
			server.Config.ErrorLog = stdlog.New(io.Discard, "", 0)
			server.StartTLS()
			t.Cleanup(server.Close)
			return server.URL
		},
	} {
		t.Run(want, func(t *testing.T) {
			log := &logtest.Log{}
			origin := start(t)
			running(t, Options{URL: withSecrets(origin), Format: JSON, Log: log.Logger().Level(zerolog.TraceLevel)})
			eventually(t, "it fails", func() bool { return len(log.Lines(t, "alerts cannot be sent")) > 0 })
			text := log.Lines(t, "alerts cannot be sent")[0]["error"].(string)
			if !strings.HasPrefix(text, "ALERT_WEBHOOK_URL ("+origin+"): ") || !strings.HasSuffix(text, want) || strings.Contains(log.String(), secret) {
				t.Error(text)
			}
			heartbeat := newReceiver("HEARTBEAT_URL", withSecrets(origin), newTransport(nil))
			err := heartbeat.request(t.Context(), http.MethodGet, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "HEARTBEAT_URL ("+origin+"): ") || strings.Contains(err.Error(), secret) {
				t.Error(err)
			}
		})
	}
}

// raw serves each connection and closes it.
func raw(serve func(net.Conn)) func(*testing.T) string {
	return func(t *testing.T) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer conn.Close()
					_ = conn.SetReadDeadline(time.Now().Add(time.Second))
					serve(conn)
					_ = conn.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, conn) // so that no reset overtakes what was written
				})
			}
		})
		t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
		return "http://" + listener.Addr().String()
	}
}

// A server that accepts and is silent: no answer is waited for longer than the context.
func TestASilentServer(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := newReceiver("ALERT_WEBHOOK_URL", server.URL, newTransport(nil)).request(ctx, http.MethodPost, []byte("{}"))
	if err == nil || !strings.HasSuffix(err.Error(), "no answer within 10s") {
		t.Error(err)
	}
}

// A body without end costs nothing: the status is the answer.
func TestABodyWithoutEndIsNotRead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	if err := newReceiver("ALERT_WEBHOOK_URL", server.URL, newTransport(nil)).request(t.Context(), http.MethodPost, []byte("{}")); err != nil {
		t.Error(err)
	}
}

func TestTheEnvironmentsProxyIsUsed(t *testing.T) {
	if newTransport(nil).Proxy == nil {
		t.Error("no proxy is asked for")
	}
}

func TestAURLThatIsNone(t *testing.T) {
	err := newReceiver("HEARTBEAT_URL", "https://[:"+secret, newTransport(nil)).request(t.Context(), http.MethodGet, nil)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
}

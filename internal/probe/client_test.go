package probe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ops_worker/internal/certtest"
	"ops_worker/internal/config"
)

// script is a server that follows one on each connection; n counts them from 1.
func script(t *testing.T, follow func(n int, c net.Conn, in *bufio.Reader)) Probe {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 1; ; n++ {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				follow(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return only(NewClient(config.Config{Instances: true}).counters("http://"+listener.Addr().String(), named))
}

func hear(in *bufio.Reader) bool {
	_, err := http.ReadRequest(in)
	return err == nil
}

// A service is what a new client finds: a connection that stands, and on which nobody
// answers any more, is none of its faults.
func TestEachProbeIsANewClient(t *testing.T) {
	t.Parallel()
	closed := make(chan int, 100)
	probe := script(t, func(n int, c net.Conn, in *bufio.Reader) {
		if hear(in) {
			body := fmt.Sprintf(`{"counters":{"connection":%d}}`, n)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
		hear(in) // a second request on this connection would have no answer
		closed <- n
	})
	for n := range 3 {
		if r := probe(t.Context()); r.Status != Healthy || r.Counters["connection"] != float64(n+1) {
			t.Errorf("probe %d: %+v", n, r)
		}
	}
	for range 3 { // none is kept
		<-closed
	}
}

// A mail server speaks first: whatever net/http makes of that, the reason is one, and
// quotes nothing.
func TestAServiceThatSpeaksFirst(t *testing.T) {
	t.Parallel()
	for _, banner := range []string{"220 mail.example.com ESMTP\r\n", "SSH-2.0-OpenSSH_9.2\r\n"} {
		probe := script(t, func(_ int, c net.Conn, in *bufio.Reader) {
			fmt.Fprint(c, banner)
			hear(in)
		})
		for range 20 {
			if r := probe(t.Context()); r.Status != Unknown || r.Err != "the answer is not HTTP" {
				t.Fatalf("%q: %+v", banner, r)
			}
		}
	}
}

func TestACertificateThatExpiresIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	authority := certtest.New(t)
	good, expired := authority.Issue("127.0.0.1", time.Hour).Load(t), authority.Issue("127.0.0.1", -time.Hour).Load(t)
	var over atomic.Bool
	server := httptest.NewUnstartedServer(body("{}"))
	server.Config.ErrorLog = log.New(&bytes.Buffer{}, "", 0)
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if over.Load() {
			return &tls.Config{Certificates: []tls.Certificate{expired}}, nil
		}
		return &tls.Config{Certificates: []tls.Certificate{good}}, nil
	}}
	server.StartTLS()
	defer server.Close()
	cfg, err := config.FromEnvironment([]string{"HEALTH_CA_FILE=" + authority.File})
	if err != nil {
		t.Fatal(err)
	}
	probe := only(NewClient(cfg).counters(server.URL, named))
	if r := probe(t.Context()); r.Status != Healthy {
		t.Errorf("before: %+v", r)
	}
	over.Store(true)
	if r := probe(t.Context()); r.Status != Unknown || !strings.Contains(r.Err, "certificate has expired") {
		t.Errorf("after: %+v", r)
	}
}

func TestWhatAnAnswerMayBeginWith(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		want   Reading
	}{
		"words before it":      {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Reading{Status: Healthy, HTTPStatus: 200}},
		"words alone":          {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 6), Reading{Status: Unknown, Err: errClosed.Error()}},
		"no length":            {"HTTP/1.0 200 OK\r\n\r\n{}", Reading{Status: Healthy, HTTPStatus: 200}},
		"less than its length": {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", Reading{Status: Unknown, HTTPStatus: 200, Err: errClosed.Error()}},
		"more than its length": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 500 No\r\n\r\n", Reading{Status: Healthy, HTTPStatus: 200}},
		"nothing":              {"", Reading{Status: Unknown, Err: errClosed.Error()}},
		"another protocol":     {"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nxx", Reading{Status: Degraded, HTTPStatus: 101}},
		"a place that is none": {"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", Reading{Status: Degraded, HTTPStatus: 302}},
		"an error without end": {"HTTP/1.1 503 No\r\n\r\nx", Reading{Status: Degraded, HTTPStatus: 503}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			probe := script(t, func(_ int, c net.Conn, in *bufio.Reader) {
				if hear(in) {
					fmt.Fprint(c, test.answer)
				}
			})
			r := probe(t.Context())
			if got := (Reading{Status: r.Status, HTTPStatus: r.HTTPStatus, Err: r.Err}); got.Status != test.want.Status || got.HTTPStatus != test.want.HTTPStatus || got.Err != test.want.Err {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

// members are gzip members that hold nothing, of so many bytes together.
func members(size int) []byte {
	var one bytes.Buffer
	gzip.NewWriter(&one).Close()
	return bytes.Repeat(one.Bytes(), size/one.Len()+1)
}

// Whatever a service sends without an end costs as many bytes as may be read, and as
// much time as a probe has.
func TestAnswersWithoutAnEnd(t *testing.T) {
	t.Parallel()
	const header = "HTTP/1.1 200 OK\r\n"
	piece := 64 << 10
	for name, test := range map[string]struct {
		begin, goesOn string
		err           string
	}{
		"words before it":     {"", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 1000), "response headers exceeded"},
		"a header":            {header, strings.Repeat("X-A: "+strings.Repeat("x", 100)+"\r\n", 500), "response headers exceeded"},
		"a line of a header":  {header + "X: ", strings.Repeat("x", piece), "response headers exceeded"},
		"a status line":       {"HTTP/1.1 200 ", strings.Repeat("x", piece), "response headers exceeded"},
		"a body":              {header + "\r\n", strings.Repeat("x", piece), errTooLong.Error()},
		"small chunks":        {header + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\nx\r\n", 10_000), ""},
		"a chunk's extension": {header + "Transfer-Encoding: chunked\r\n\r\n1;", strings.Repeat("x", piece), ""},
		"a trailer":           {header + "Transfer-Encoding: chunked\r\n\r\n0\r\n", strings.Repeat("X-A: x\r\n", 10_000), ""},
		"nothing, compressed": {header + "Content-Encoding: gzip\r\n\r\n", string(members(piece)), errTooLong.Error()},
		"no HTTP":             {"", strings.Repeat("x", piece), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := make(chan int, 1)
			probe := script(t, func(_ int, c net.Conn, in *bufio.Reader) {
				total := 0
				defer func() { sent <- total }()
				if !hear(in) {
					return
				}
				for text := test.begin; total < 256<<20; text = test.goesOn {
					n, err := fmt.Fprint(c, text)
					if total += n; err != nil {
						return
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			r := probe(ctx)
			if r.Status != Unknown || !strings.Contains(r.Err, test.err) || len(r.Err) > 210 || ctx.Err() != nil {
				t.Errorf("%+v", r)
			}
			if n := <-sent; n > 32<<20 { // the sockets' buffers hold some
				t.Errorf("the service could send %d bytes", n)
			}
		})
	}
}

// The deadline is that of the whole exchange, whatever the service does slowly.
func TestNothingIsWaitedForLongerThanTheDeadline(t *testing.T) {
	t.Parallel()
	for name, follow := range map[string]func(c net.Conn, in *bufio.Reader){
		"it says nothing":    func(_ net.Conn, in *bufio.Reader) { hear(in) },
		"the header stops":   func(c net.Conn, in *bufio.Reader) { hear(in); fmt.Fprint(c, "HTTP/1.1 200 OK\r\n") },
		"the body stops":     func(c net.Conn, in *bufio.Reader) { hear(in); fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n{") },
		"the protocol stops": func(c net.Conn, in *bufio.Reader) { hear(in); fmt.Fprint(c, "HTTP/1.1 100 Continue\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			given := make(chan struct{})
			probe := script(t, func(_ int, c net.Conn, in *bufio.Reader) {
				follow(c, in)
				hear(in) // until the other side gives up
				close(given)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if r := probe(ctx); r.Status != Unknown || !strings.HasPrefix(r.Err, "no answer within ") || r.Latency != 0 {
				t.Errorf("%+v", r)
			}
			<-given
		})
	}
}

// A TLS server that never finishes its handshake is waited for no longer either: the
// connection is closed then.
func TestAHandshakeThatStops(t *testing.T) {
	t.Parallel()
	client := NewClient(config.Config{Instances: true})
	for name, ask := range map[string]func(address string) asking{
		"a GET":       func(address string) asking { return client.counters("https://"+address, named) },
		"a handshake": client.tls,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			given := make(chan struct{})
			go func() {
				defer close(given)
				if c, err := listener.Accept(); err == nil {
					_, _ = io.Copy(io.Discard, c) // until the other side gives up
					c.Close()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if r := only(ask(listener.Addr().String()))(ctx); r.Status != Unknown || !strings.HasPrefix(r.Err, "no answer within ") {
				t.Errorf("%+v", r)
			}
			select {
			case <-given:
			case <-time.After(10 * time.Second):
				t.Error("the connection stands behind the probe")
			}
		})
	}
}

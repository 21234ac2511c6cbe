package probe

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

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
	client := NewClient(nil)
	t.Cleanup(func() {
		listener.Close()
		client.Close()
		serving.Wait()
	})
	return Targets([]config.Service{{Name: "a", Addresses: []string{"http://" + listener.Addr().String()}, AllCounters: true}}, client, nil)[0].Instances()[0].Probe
}

func hear(in *bufio.Reader) bool {
	_, err := http.ReadRequest(in)
	return err == nil
}

func answerWith(c net.Conn, count int) {
	body := fmt.Sprintf(`{"counters":{"connection":%d}}`, count)
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// The first connection answers once, and then does something; the second probe
// comes on it or on another.
func TestAConnectionIsKeptAsLongAsItIsGood(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		does func(c net.Conn, in *bufio.Reader, done func())
		want float64 // the connection that answers
	}{
		"stands": {func(c net.Conn, in *bufio.Reader, done func()) {
			done()
			if hear(in) {
				answerWith(c, 1)
			}
		}, 1},
		"is closed": {func(c net.Conn, _ *bufio.Reader, done func()) {
			c.Close()
			done()
		}, 2},
		"is closed at the next request": {func(_ net.Conn, in *bufio.Reader, done func()) {
			done()
			hear(in)
		}, 2},
		"brings what nobody asked for": {func(c net.Conn, in *bufio.Reader, done func()) {
			fmt.Fprint(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
			done()
			hear(in)
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answered, done := make(chan struct{}), make(chan struct{})
			probe := script(t, func(n int, c net.Conn, in *bufio.Reader) {
				if !hear(in) {
					return
				}
				answerWith(c, n)
				if n == 1 {
					<-answered
					test.does(c, in, func() { close(done) })
				}
			})
			if r := probe(t.Context()); r.Counters["connection"] != 1 {
				t.Fatalf("first: %+v", r)
			}
			close(answered)
			<-done
			if r := probe(t.Context()); r.Counters["connection"] != test.want {
				t.Errorf("second: %+v", r)
			}
		})
	}
}

func TestWhatAnAnswerMayBeginWith(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		want   Reading
	}{
		"words before it":      {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Reading{Status: Healthy, HTTPStatus: 200}},
		"words without an end": {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 6), Reading{Status: Degraded, HTTPStatus: 100}},
		"a header too long":    {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxHeader), Reading{Status: Unknown, Err: errHeader.Error()}},
		"no length":            {"HTTP/1.0 200 OK\r\n\r\n{}", Reading{Status: Healthy, HTTPStatus: 200}},
		"less than its length": {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", Reading{Status: Unknown, HTTPStatus: 200, Err: "unexpected EOF"}},
		"nothing":              {"", Reading{Status: Unknown, Err: "unexpected EOF"}},
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

// A probe that is given up leaves no connection behind that the next would use.
func TestAConnectionThatWasGivenUpIsNotKept(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	probe := script(t, func(n int, c net.Conn, in *bufio.Reader) {
		if hear(in) && n == 1 {
			close(asked)
			hear(in) // until the other side gives up
			return
		}
		answerWith(c, n)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if r := probe(ctx); r.Status != Unknown || !strings.HasPrefix(r.Err, "no answer within") {
		t.Errorf("given up: %+v", r)
	}
	if r := probe(t.Context()); r.Counters["connection"] != 2 {
		t.Errorf("then: %+v", r)
	}
}

package collectors

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/spool"
)

// boundaryProxy forwards the PostgreSQL protocol message by message and cuts
// both sides after so many, of both directions together. It sees every boundary
// at which a connection can break: the message is forwarded whole or not at all.
type boundaryProxy struct {
	listener net.Listener
	upstream string
	wg       sync.WaitGroup

	mu    sync.Mutex
	left  int // messages until the cut; negative is none
	seen  int
	conns []net.Conn
}

func newBoundaryProxy(t *testing.T, upstream string) *boundaryProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &boundaryProxy{listener: listener, upstream: upstream, left: -1}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *boundaryProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.upstream)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		p.wg.Go(func() { p.forward(server, client, true) })
		p.wg.Go(func() { p.forward(client, server, false) })
	}
}

// forward copies messages; the first one of a client has no type.
func (p *boundaryProxy) forward(to, from net.Conn, startup bool) {
	defer to.Close()
	defer from.Close()
	reader := bufio.NewReader(from)
	for {
		var message []byte
		if !startup {
			kind, err := reader.ReadByte()
			if err != nil {
				return
			}
			message = append(message, kind)
		}
		startup = false
		length := make([]byte, 4)
		if _, err := io.ReadFull(reader, length); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(length)-4)
		if _, err := io.ReadFull(reader, body); err != nil {
			return
		}
		message = append(append(message, length...), body...)
		if !p.count() {
			p.cut()
			return
		}
		if _, err := to.Write(message); err != nil {
			return
		}
	}
}

// count reports whether one more message may pass.
func (p *boundaryProxy) count() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		return false
	}
	if p.left > 0 {
		p.left--
	}
	p.seen++
	return true
}

func (p *boundaryProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// after lets n messages pass from now on; it returns how many have passed since
// the last call.
func (p *boundaryProxy) after(n int) (seen int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen, p.seen, p.left = p.seen, 0, n
	return seen
}

// A store is cut at every message boundary of its exchange, the start of the
// connection included, and then repeated until it succeeds: every sample stands
// once, wherever the cut was.
func TestAStoreThatIsCutAnywhereStoresOnce(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	address, err := url.Parse(database.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := newBoundaryProxy(t, address.Host)
	address.Host = proxy.listener.Addr().String()
	pool, err := db.Open(t.Context(), db.Options{URL: address.String(), MaxConns: 1, ConnectTimeout: 5 * time.Second, ApplicationName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store := storeOn(pool, 2*time.Second)
	direct := database.Pool(t)
	token := acquire(t, storeOn(direct, 2*time.Second), "a")

	begin := time.Now().UTC().Truncate(time.Microsecond)
	appendCycle := func(n int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, _, err := store.AppendCycles(ctx, token, []spool.Cycle{cycleAt(begin.Add(time.Duration(n)*time.Second), 1, 2, 3)}, false)
		return err
	}
	pool.Reset()
	proxy.after(-1)
	if err := appendCycle(0); err != nil {
		t.Fatal(err)
	}
	messages := proxy.after(-1)
	if messages < 30 {
		t.Fatalf("an exchange has %d messages: is it going through the proxy?", messages)
	}

	unknown, cycles := 0, 1
	for n := range messages + 1 {
		pool.Reset() // so that every exchange begins with the connection's start
		proxy.after(n)
		first := appendCycle(cycles)
		if n < messages-10 && first == nil {
			t.Fatalf("cut after %d of %d messages: no error", n, messages)
		}
		stoodAlready := pgtest.Count(t, direct, "SELECT count(*) FROM system_metrics") == 3*(cycles+1)
		if first != nil && stoodAlready {
			unknown++ // the outcome that hope gets wrong
		}
		proxy.after(-1)
		if err := appendCycle(cycles); err != nil {
			// The pool may still hand out a connection that was cut.
			if err = errors.Join(err, appendCycle(cycles)); errors.Is(err, lease.ErrLost) {
				t.Fatalf("cut after %d messages: %v", n, err)
			}
		}
		cycles++
		if got := pgtest.Count(t, direct, "SELECT count(*) FROM system_metrics"); got != 3*cycles {
			t.Fatalf("cut after %d of %d messages: %d samples stand, want %d", n, messages, got, 3*cycles)
		}
	}
	pgtest.WantRows(t, direct, "SELECT count(*), count(DISTINCT (time, metric_name)) FROM system_metrics", fmt.Sprint(3*cycles, " ", 3*cycles))
	if unknown == 0 {
		t.Error("no cut fell between the commit and its answer: the test has missed what it is for")
	}
	t.Logf("%d boundaries, %d of them with the outcome unknown", messages+1, unknown)
}

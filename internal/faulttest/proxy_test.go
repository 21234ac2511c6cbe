package faulttest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between the workers and the database. It was written rather than
// taken from Shopify/toxiproxy for the one fault that matters most and that
// toxiproxy has no name for: connections that are dead on the other side while
// new ones work.
type proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu       sync.Mutex
	upstream string        // where new connections lead
	refuse   bool          // new connections are closed at once
	latency  time.Duration // of each piece, each way
	hole     bool          // nothing passes, nothing is closed
	links    map[*link]struct{}
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	frozen         bool
}

func newProxy(t *testing.T, upstream string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, upstream: upstream, links: map[*link]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		listener.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		if refuse {
			client.Close()
			continue
		}
		p.wg.Go(func() { p.connect(client) })
	}
}

func (p *proxy) connect(client net.Conn) {
	p.mu.Lock()
	upstream := p.upstream
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", upstream, 5*time.Second)
	if err != nil {
		client.Close()
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var copying sync.WaitGroup
	copying.Go(func() { p.copy(l, server, client) })
	copying.Go(func() { p.copy(l, client, server) })
	copying.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

func (p *proxy) copy(l *link, to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		swallow, latency := p.hole || l.frozen, p.latency
		p.mu.Unlock()
		if swallow {
			if err != nil && err != io.EOF {
				return // closed by cut
			}
			if err == nil {
				// What is swallowed makes the stream useless for good.
				p.mu.Lock()
				l.frozen = true
				p.mu.Unlock()
				continue
			}
			// The other side must not learn that this one is gone.
			return
		}
		if latency > 0 {
			time.Sleep(latency)
		}
		if n > 0 {
			if _, writeErr := to.Write(buffer[:n]); writeErr != nil {
				err = writeErr
			}
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// set changes the proxy's state.
func (p *proxy) set(change func(*proxy)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.client.Close()
		l.server.Close()
	}
}

// freeze makes every connection half-open: nothing passes any more and neither
// side is told, while new connections work.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.frozen = true
	}
}

// heal ends every fault; connections that were swallowed stay dead.
func (p *proxy) heal() {
	p.set(func(p *proxy) { p.refuse, p.latency, p.hole = false, 0, false })
}

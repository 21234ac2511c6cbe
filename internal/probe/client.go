package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

// Limits on what a service may answer: it is hostile until read.
const (
	maxBody   = 1 << 20 // decoded
	maxHeader = 64 << 10
	maxRead   = 2 << 20 // as it comes, header included
)

var errTooLong = errors.New("the answer is longer than 1 MiB")

// Client sends the probes of all services. Each is what a new client would see: it
// has a connection of its own, and so finds no dead or moved service, and no expired
// certificate, behind one that still stands.
type Client struct {
	// Resolver looks up the names of the services.
	Resolver Resolver

	transport   *http.Transport
	authorities *x509.CertPool
	// instances says that each address of a platform service's name is an instance.
	instances bool

	mu       sync.Mutex
	names    map[string]*name
	looking  faultlog.Log
	services []*service
	crowded  faultlog.Log
}

// NewClient makes the client. A service's certificate must be signed by one of
// authorities, or of the system's where that is nil.
func NewClient(authorities *x509.CertPool) *Client {
	c := &Client{Resolver: &net.Resolver{PreferGo: true}, authorities: authorities, instances: true, names: map[string]*name{}}
	// Proxy is not set: a service is asked directly, whatever the environment names.
	c.transport = &http.Transport{
		DisableKeepAlives:      true,
		ReadBufferSize:         1 << 10, // requests and answers are small
		WriteBufferSize:        1 << 10,
		MaxResponseHeaderBytes: maxHeader,
		DialContext:            c.dialPlain,
		DialTLSContext:         c.dialTLS,
	}
	return c
}

// ClientOf is the client that the settings describe.
func ClientOf(cfg config.Config) *Client {
	c := NewClient(cfg.HealthCAs)
	c.instances = cfg.Instances
	return c
}

// counters probes a URL and reads the counters of its answer: those that named
// selects, and others up to a limit.
func (c *Client) counters(address string, named func(string) bool) asking {
	return c.http(address, func(r *Reading, body []byte) {
		if len(body) > maxBody {
			r.Status, r.Err = Unknown, errTooLong.Error()
			return
		}
		counters, leftOut, err := parseCounters(body, named)
		if err != nil {
			r.Status, r.Err = Unknown, "the answer is not JSON"
			return
		}
		r.Counters, r.LeftOut = counters, leftOut
	})
}

// status probes a URL for its HTTP status alone.
func (c *Client) status(address string) asking {
	return c.http(address, func(*Reading, []byte) {})
}

// http prepares the probes of a URL. RoundTrip follows no redirect: another host's
// answer is not the service's.
func (c *Client) http(address string, read func(*Reading, []byte)) asking {
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return asking{at: func(netip.Addr) Probe {
			return func(context.Context) Reading { return Reading{Status: Unknown, Err: "not a valid URL"} }
		}}
	}
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "ops-worker")
	at := func(instance netip.Addr) Probe {
		return func(ctx context.Context) Reading { return c.get(ctx, request, instance, read) }
	}
	return asking{host: request.URL.Hostname(), port: portOf(request.URL), at: at}
}

// get asks an instance, or the name of the request's URL where there is none.
func (c *Client) get(ctx context.Context, request *http.Request, instance netip.Addr, read func(*Reading, []byte)) (reading Reading) {
	begin := time.Now()
	remote := ""
	defer func() { reading.Remote = remote }()
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { remote = i.Conn.RemoteAddr().String() }})
	request = request.Clone(context.WithValue(traced, dialKey{}, dialing{ctx, instance}))
	if id := TraceID(ctx); id != "" {
		request.Header.Set(traceHeader, id)
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return failedReading(ctx, err, begin)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK { // which says enough
		return Reading{Status: Degraded, HTTPStatus: response.StatusCode, Latency: time.Since(begin)}
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		reading = failedReading(ctx, err, begin)
		reading.HTTPStatus = response.StatusCode
		return reading
	}
	reading = Reading{Status: Healthy, HTTPStatus: response.StatusCode, Latency: time.Since(begin)}
	read(&reading, body)
	return reading
}

// tcp prepares the probes of a host:port, by connecting to it.
func (c *Client) tcp(address string) asking {
	host, port, _ := net.SplitHostPort(address)
	return asking{host: host, port: port, at: func(instance netip.Addr) Probe {
		return func(ctx context.Context) Reading {
			begin := time.Now()
			conn, err := c.dial(ctx, host, port, instance)
			if err != nil {
				return failedReading(ctx, err, begin)
			}
			reading := Reading{Status: Healthy, Latency: time.Since(begin)}
			conn.Close()
			return reading
		}
	}}
}

// dialing is what a request says of its connection. The transport keeps the values of
// the request's context, but not its deadline, which bounds the dialling too.
type dialing struct {
	ctx      context.Context
	instance netip.Addr
}

type dialKey struct{}

func (c *Client) dialPlain(ctx context.Context, _, address string) (_ net.Conn, err error) {
	d := ctx.Value(dialKey{}).(dialing)
	defer faultlog.Recovered(d.ctx, func(panicked error) { err = panicked }) // net/http dials in a goroutine of its own
	conn, _, err := c.dialFor(d, address)
	if err != nil {
		return nil, err
	}
	return newGuarded(conn), nil
}

// dialTLS speaks TLS under the URL's host, whatever address is dialled.
func (c *Client) dialTLS(ctx context.Context, _, address string) (_ net.Conn, err error) {
	d := ctx.Value(dialKey{}).(dialing)
	defer faultlog.Recovered(d.ctx, func(panicked error) { err = panicked })
	conn, host, err := c.dialFor(d, address)
	if err != nil {
		return nil, err
	}
	encrypted := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.authorities, ServerName: host})
	if err := encrypted.HandshakeContext(d.ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return newGuarded(encrypted), nil
}

func (c *Client) dialFor(d dialing, address string) (conn net.Conn, host string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", err
	}
	conn, err = c.dial(d.ctx, host, port, d.instance)
	return conn, host, err
}

// dial connects to an instance; to the last known addresses of host where there is
// none, in turn until one accepts, each for its share of the time that is left.
func (c *Client) dial(ctx context.Context, host, port string, instance netip.Addr) (conn net.Conn, err error) {
	addresses := []netip.Addr{instance}
	if !instance.IsValid() {
		if addresses, err = c.addressesOf(ctx, host); err != nil {
			return nil, err
		}
	}
	var first error
	for i, a := range addresses {
		attempt, cancel := shareOf(ctx, len(addresses)-i)
		conn, err = (&net.Dialer{KeepAlive: -1}).DialContext(attempt, "tcp", net.JoinHostPort(a.String(), port))
		cancel()
		if err == nil {
			return conn, nil
		}
		first = cmp.Or(first, err)
	}
	return nil, first
}

// shareOf bounds the first of so many attempts.
func shareOf(ctx context.Context, attempts int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || attempts < 2 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(attempts))
}

// portOf is the port that a URL leads to.
func portOf(u *url.URL) string {
	if u.Scheme == "https" {
		return cmp.Or(u.Port(), "443")
	}
	return cmp.Or(u.Port(), "80")
}

// guarded hands nothing on before a request is written, since net/http logs what comes
// unasked; and no more than maxRead, of which compression could make nothing.
type guarded struct {
	net.Conn
	asked func()
	open  <-chan struct{}
	left  int
}

func newGuarded(conn net.Conn) *guarded {
	open := make(chan struct{})
	return &guarded{Conn: conn, asked: sync.OnceFunc(func() { close(open) }), open: open, left: maxRead}
}

func (g *guarded) Write(p []byte) (int, error) {
	g.asked()
	return g.Conn.Write(p)
}

func (g *guarded) Read(p []byte) (n int, err error) {
	<-g.open
	if g.left == 0 {
		return 0, errTooLong
	}
	n, err = g.Conn.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// Close ends a Read that waits, too.
func (g *guarded) Close() error {
	err := g.Conn.Close()
	g.asked()
	return err
}

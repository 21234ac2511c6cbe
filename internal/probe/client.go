package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
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

// ErrNotJSON is the Cause where a service of the platform answers anything else.
var ErrNotJSON = errors.New("the answer is not JSON")

// Client sends the probes of all services. Each is what a new client would see: it
// has a connection of its own, and so finds no dead or moved service, and no expired
// certificate, behind one that still stands.
type Client struct {
	// Resolver looks up the names of the services.
	Resolver Resolver

	transport *http.Transport
	// instances says that each address of a platform service's name is an instance.
	instances bool

	// services are those whose instances are counted at each look-up.
	services []*service

	mu      sync.Mutex
	names   map[string]*name
	looking faultlog.Log
	crowded faultlog.Log
}

// NewClient is the client that the settings describe.
func NewClient(cfg config.Config) *Client {
	return &Client{
		Resolver:  &net.Resolver{PreferGo: true},
		instances: cfg.Instances,
		names:     map[string]*name{},
		// Proxy is not set: a service is asked directly, whatever the environment names.
		transport: &http.Transport{
			DisableKeepAlives:      true,
			ReadBufferSize:         1 << 10, // requests and answers are small
			WriteBufferSize:        1 << 10,
			MaxResponseHeaderBytes: maxHeader,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.HealthCAs},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return ctx.Value(connectionKey{}).(net.Conn), nil
			},
		},
	}
}

// connectionKey is where a request's context has the connection that its probe made.
type connectionKey struct{}

// asking is how the instances at one entry of a service's list are asked.
type asking struct {
	client *Client
	name   *name
	port   string
	// on asks on a new connection.
	on func(context.Context, net.Conn) (Reading, error)
}

// at is the probe of the instance at an address, or of the name itself where the
// address is not valid.
func (a asking) at(instance netip.Addr) Probe {
	return func(ctx context.Context) Reading {
		begin := time.Now()
		conn, err := a.client.dial(ctx, a.name, a.port, instance)
		if err != nil {
			return failedReading(ctx, err, begin)
		}
		defer conn.Close()
		reading, err := a.on(ctx, conn)
		if err != nil {
			status := reading.HTTPStatus
			reading = failedReading(ctx, err, begin)
			reading.HTTPStatus, reading.Cause = status, err
			reading.addRefusedCertificate(err)
		} else {
			reading.Latency = time.Since(begin)
		}
		reading.Remote = conn.RemoteAddr().String()
		return reading
	}
}

// tcp asks at a host:port, where accepting the connection is the answer.
func (c *Client) tcp(address string) asking {
	host, port, _ := net.SplitHostPort(address)
	return asking{c, c.nameOf(host), port, func(context.Context, net.Conn) (Reading, error) { return Reading{Status: Healthy}, nil }}
}

// tls asks at a host:port, where the handshake is the answer.
func (c *Client) tls(address string) asking {
	host, port, _ := net.SplitHostPort(address)
	settings := c.transport.TLSClientConfig.Clone()
	settings.ServerName = host
	return asking{c, c.nameOf(host), port, func(ctx context.Context, conn net.Conn) (Reading, error) {
		secured := tls.Client(conn, settings)
		if err := secured.HandshakeContext(ctx); err != nil {
			return Reading{}, err
		}
		return Reading{Status: Healthy, CertificateEnds: secured.ConnectionState().PeerCertificates[0].NotAfter}, nil
	}}
}

// status asks at a URL for its HTTP status alone.
func (c *Client) status(address string) asking {
	return c.http(address, is200, func(_ *Reading, _ []byte, err error) error { return err })
}

// counters asks at a URL and reads the counters of the answer: those that named
// selects, and others up to a limit.
func (c *Client) counters(address string, named func(string) bool) asking {
	return c.http(address, is200, func(r *Reading, body []byte, err error) error {
		if err != nil {
			return err
		}
		counters, leftOut, err := parseCounters(body, named)
		switch {
		case len(body) > maxBody:
			r.Status, r.Err = Unknown, errTooLong.Error()
		case err != nil:
			r.Status, r.Err, r.Cause = Unknown, ErrNotJSON.Error(), ErrNotJSON
		default:
			r.Counters, r.LeftOut = counters, leftOut
		}
		return nil
	})
}

// extra asks an extra service at a URL. Its body may be anything, also one that breaks off
// or has no end; of a JSON one the counters are read.
func (c *Client) extra(address string) asking {
	return c.http(address, is2xx, func(r *Reading, body []byte, err error) error {
		if err == nil {
			r.Counters, r.LeftOut, _ = parseCounters(body, func(string) bool { return false })
		}
		return nil
	})
}

func is200(status int) bool { return status == http.StatusOK }
func is2xx(status int) bool { return status >= 200 && status <= 299 }

// http asks at a URL. RoundTrip follows no redirect: another host's answer is not the
// service's.
func (c *Client) http(address string, healthy func(status int) bool, read func(r *Reading, body []byte, err error) error) asking {
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return asking{client: c, name: &name{}} // which is not found; the settings have no such URL
	}
	if user := request.URL.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	request.Header.Set("Accept", "application/json, */*;q=0.5")
	request.Header.Set("User-Agent", "ops-worker")
	return asking{c, c.nameOf(request.URL.Hostname()), portOf(request.URL), func(ctx context.Context, conn net.Conn) (Reading, error) {
		request := request.Clone(context.WithValue(ctx, connectionKey{}, &limited{conn, maxRead}))
		if id := TraceID(ctx); id != "" {
			request.Header.Set(traceHeader, id)
		}
		response, err := c.transport.RoundTrip(request)
		if err != nil {
			return Reading{}, err
		}
		defer response.Body.Close()
		reading := Reading{Status: Healthy, HTTPStatus: response.StatusCode}
		if response.TLS != nil {
			reading.CertificateEnds = response.TLS.PeerCertificates[0].NotAfter
		}
		if !healthy(response.StatusCode) { // which says enough
			reading.Status, reading.Location = Degraded, locationOf(response)
			return reading, nil
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
		err = read(&reading, body, err)
		return reading, err
	}}
}

// locationOf is the place to which a redirect leads, without the path, which may hold a
// secret of the URL that was asked; or empty.
func locationOf(response *http.Response) string {
	to, err := response.Location()
	if err != nil || response.StatusCode < 300 || response.StatusCode > 399 {
		return ""
	}
	return faultlog.PlainText((&url.URL{Scheme: to.Scheme, Host: to.Host}).String())
}

// addRefusedCertificate notes a certificate that was not verified: why, without the names
// of Go's packages, and when it ends.
func (r *Reading) addRefusedCertificate(err error) {
	var refused *tls.CertificateVerificationError
	if errors.As(err, &refused) {
		r.Err = faultlog.PlainText(strings.TrimPrefix(refused.Err.Error(), "x509: "))
		r.CertificateEnds = refused.UnverifiedCertificates[0].NotAfter
	}
}

// portOf is the port that a URL leads to.
func portOf(u *url.URL) string {
	if u.Scheme == "https" {
		return cmp.Or(u.Port(), "443")
	}
	return cmp.Or(u.Port(), "80")
}

// limited is a connection on which no more than so many bytes are read: compression
// could make nothing of any number of them.
type limited struct {
	net.Conn
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, errTooLong
	}
	n, err := l.Conn.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// dial connects to an instance; to the last known addresses of its name where there is
// none, in turn until one accepts, each for its share of the time that is left. Before
// a look-up has answered the probe looks the name up itself.
func (c *Client) dial(ctx context.Context, of *name, port string, instance netip.Addr) (conn net.Conn, err error) {
	addresses := of.known()
	if instance.IsValid() {
		addresses = []netip.Addr{instance}
	} else if len(addresses) == 0 {
		found, err := c.Resolver.LookupNetIP(ctx, "ip", of.host)
		if of.learn(found, err) {
			return nil, errNoHost
		}
		if err != nil {
			return nil, err
		}
		addresses = byFamily(found)
	}
	first := errNoHost
	for i, a := range addresses {
		attempt, cancel := shareOf(ctx, len(addresses)-i)
		conn, err = (&net.Dialer{KeepAlive: -1}).DialContext(attempt, "tcp", net.JoinHostPort(a.String(), port))
		cancel()
		if err == nil {
			return conn, nil
		}
		if i == 0 {
			first = err
		}
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

// traceHeader is what every worker of the platform sends on its outgoing calls.
const traceHeader = "X-Trace-ID"

type traceKey struct{}

// WithTraceID lets the probes of a cycle send its trace id, a UUID.
func WithTraceID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// TraceID is the cycle's trace id, or empty outside of one.
func TraceID(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

// Package probe asks one service how it is, by HTTP, TCP or a query.
package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

// Status is what a probe found: the words of the platform's details.status.
type Status string

// The statuses of a probe. service_health.status knows healthy and, for the
// other three, unhealthy.
const (
	Healthy  Status = "healthy"  // answered 200
	Degraded Status = "degraded" // answered anything else
	Down     Status = "down"     // refused the connection
	Unknown  Status = "unknown"  // time-out, no such host, no JSON, …
)

// Reading is what one probe brought back.
type Reading struct {
	Status Status
	// Latency is how long the answer took; 0 when nothing answered.
	Latency time.Duration
	// HTTPStatus is 0 where no HTTP was spoken.
	HTTPStatus int
	// Counters are the numeric counters of the answer that may be stored.
	Counters map[string]float64
	// LeftOut counts the counters that may not.
	LeftOut int
	// Err says why an Unknown is one: plain text, without secrets.
	Err string
	// Remote is the address that HTTP was spoken with.
	Remote string
}

// Reason is the reading in the few words of an alert's summary.
func (r Reading) Reason() string {
	switch {
	case r.Status == Degraded && r.HTTPStatus != 0:
		return fmt.Sprintf("HTTP %d", r.HTTPStatus)
	case r.Status == Down:
		return "connection refused"
	case r.Err != "":
		return r.Err
	}
	return string(r.Status)
}

// Probe asks one service how it is. It answers within ctx's deadline and has no
// error: whatever goes wrong is the reading.
type Probe func(ctx context.Context) Reading

// Limits on what a service may answer: it is hostile until read.
const (
	maxBody     = 1 << 20
	maxHeader   = 64 << 10
	maxCounters = 64
)

var counterName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,63}$`)

// Client sends the probes of all services.
type Client struct {
	// Resolver looks up the names of the services; nil leaves each to be one
	// instance.
	Resolver Resolver

	authorities *x509.CertPool

	mu       sync.Mutex
	services []*service
	tooMany  int // instances that are not asked
	crowded  faultlog.Log
}

// NewClient makes the client. A service's certificate must be signed by one of
// authorities, or of the system's where that is nil.
func NewClient(authorities *x509.CertPool) *Client {
	return &Client{Resolver: &net.Resolver{PreferGo: true}, authorities: authorities}
}

// ClientOf is the client that the settings describe.
func ClientOf(cfg config.Config) *Client {
	c := NewClient(cfg.HealthCAs)
	if !cfg.Instances {
		c.Resolver = nil
	}
	return c
}

// Close frees the idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.services {
		for _, e := range s.endpoints {
			e.dropIdle()
		}
	}
}

// counters probes a URL and reads the counters of its answer: those in keep, and
// others up to a limit.
func (c *Client) counters(address string, keep []config.Counter) *endpoint {
	totals := slices.ContainsFunc(keep, func(k config.Counter) bool { return !k.Gauge })
	return c.http(address, totals, func(r *Reading, body []byte) {
		if len(body) > maxBody {
			r.Status, r.Err = Unknown, "the answer is longer than 1 MiB"
			return
		}
		counters, leftOut, err := parseCounters(body, keep)
		if err != nil {
			r.Status, r.Err = Unknown, "the answer is not JSON"
			return
		}
		r.Counters, r.LeftOut = counters, leftOut
	})
}

// status probes a URL for its HTTP status alone.
func (c *Client) status(address string) *endpoint {
	return c.http(address, false, func(*Reading, []byte) {})
}

// http prepares the endpoint of a URL; fresh says that it is also asked on
// connections of their own. The host is the name in a certificate whatever address
// is asked. It is asked directly, whatever proxy the environment names, and no
// redirect is followed: another host's answer is not the service's.
func (c *Client) http(address string, fresh bool, read func(*Reading, []byte)) *endpoint {
	e := &endpoint{servers: map[string]*server{}}
	request, host, err := requestOf(address, false)
	if err != nil {
		e.prober = func(string) (Probe, Probe) {
			return func(context.Context) Reading { return Reading{Status: Unknown, Err: "not a valid URL"} }, nil
		}
		return e
	}
	requestOnce, _, _ := requestOf(address, true)
	u, _ := url.Parse(address) // which requestOf has done
	e.host, e.port = endpointOf(u)
	var encryption *tls.Config
	if u.Scheme == "https" {
		encryption = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.authorities, ServerName: u.Hostname()}
	}
	e.prober = func(instance string) (probe, again Probe) {
		if instance == "" {
			instance = net.JoinHostPort(host, e.port)
		}
		if e.servers[instance] == nil {
			e.servers[instance] = &server{address: instance, tls: encryption, keep: keptConnections}
		}
		if fresh {
			again = get(&server{address: instance, tls: encryption}, requestOnce, read)
		}
		return get(e.servers[instance], request, read), again
	}
	return e
}

// keptConnections are how many are kept to a server: each of two loops asks it.
const keptConnections = 2

// requestOf is a GET of a URL, less the header's end, and the host that is dialled,
// both as net/http has them. Once says that its connection is not kept.
func requestOf(address string, once bool) (request []byte, host string, err error) {
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return nil, "", err
	}
	if user := req.URL.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "ops-worker")
	req.Close = once
	var text bytes.Buffer
	if err := req.Write(&text); err != nil {
		return nil, "", err
	}
	written, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text.Bytes())))
	if err != nil {
		return nil, "", err
	}
	host = (&url.URL{Host: written.Host}).Hostname()
	return bytes.Clone(bytes.TrimSuffix(text.Bytes(), []byte(headerEnd))), host, nil
}

const headerEnd = "\r\n"

// get asks a server.
func get(s *server, request []byte, read func(*Reading, []byte)) Probe {
	return func(ctx context.Context) (reading Reading) {
		begin := time.Now()
		whole := make([]byte, 0, len(request)+64)
		whole = append(whole, request...)
		if id := TraceID(ctx); id != "" {
			whole = append(append(append(whole, traceHeader+": "...), id...), headerEnd...)
		}
		whole = append(whole, headerEnd...)
		remote, err := s.get(ctx, whole, func(a answer) {
			reading = Reading{Status: Healthy, HTTPStatus: a.status, Latency: time.Since(begin)}
			if a.status != http.StatusOK {
				reading.Status = Degraded
				return
			}
			read(&reading, a.body)
		})
		if err != nil {
			reading = failedReading(ctx, err, begin)
			var broken *bodyError
			if errors.As(err, &broken) {
				reading.HTTPStatus = broken.status
			}
		}
		reading.Remote = remote
		return reading
	}
}

// tcp prepares the endpoint of a host:port that is probed by connecting to it.
func tcp(address string) *endpoint {
	e := &endpoint{}
	e.host, e.port, _ = net.SplitHostPort(address)
	e.prober = func(instance string) (probe, fresh Probe) {
		if instance == "" {
			instance = address
		}
		return connect(instance), nil
	}
	return e
}

// connect probes by connecting to address, host:port.
func connect(address string) Probe {
	return func(ctx context.Context) Reading {
		begin := time.Now()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return failedReading(ctx, err, begin)
		}
		reading := Reading{Status: Healthy, Latency: time.Since(begin)}
		conn.Close()
		return reading
	}
}

// query probes the database.
func query(ping func(context.Context) error) Probe {
	return func(ctx context.Context) Reading {
		begin := time.Now()
		if err := ping(ctx); err != nil {
			return failedReading(ctx, err, begin)
		}
		return Reading{Status: Healthy, Latency: time.Since(begin)}
	}
}

// failedReading classifies an error as the contract has it: a refused
// connection is down, anything else unknown.
func failedReading(ctx context.Context, err error, begin time.Time) Reading {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return Reading{Status: Down, Err: "connection refused"}
	}
	var netErr net.Error
	if ctx.Err() != nil || (errors.As(err, &netErr) && netErr.Timeout()) {
		return Reading{Status: Unknown, Err: "no answer within " + time.Since(begin).Round(100*time.Millisecond).String()}
	}
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) && dnsErr.IsNotFound {
		return Reading{Status: Unknown, Err: errNoHost.Error()}
	}
	// The URL may hold a password or a token, and the error quotes it.
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	return Reading{Status: Unknown, Err: faultlog.PlainText(err.Error())}
}

// parseCounters reads the numeric counters of a health answer: those in keep,
// and the first 64 others that may be stored. It fails only where body is no
// JSON; an answer of another shape has no counters. The others that may not be
// stored are counted: no finite number, no proper name, or one too many.
// It reads token by token, so that an answer costs what is kept of it.
func parseCounters(body []byte, keep []config.Counter) (counters map[string]float64, leftOut int, err error) {
	if !json.Valid(body) {
		return nil, 0, errors.New("no JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if !enterObject(dec) {
		return nil, 0, nil
	}
	c := counterReader{keep: keep, counters: map[string]float64{}}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, 0, err
		}
		if key != "counters" {
			if err := skipValue(dec); err != nil {
				return nil, 0, err
			}
			continue
		}
		if !enterObject(dec) {
			return nil, 0, nil
		}
		if err := c.read(dec); err != nil {
			return nil, 0, err
		}
	}
	return c.counters, c.leftOut, nil
}

// counterReader gathers the counters that may be stored.
type counterReader struct {
	keep            []config.Counter
	counters        map[string]float64
	others, leftOut int
}

// read reads an object of counters to its end.
func (c *counterReader) read(dec *json.Decoder) error {
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		name, _ := key.(string)
		c.add(name, string(raw))
	}
	_, err := dec.Token()
	return err
}

func (c *counterReader) add(name, text string) {
	value, err := strconv.ParseFloat(text, 64)
	_, seen := c.counters[name]
	kept := seen || slices.ContainsFunc(c.keep, func(k config.Counter) bool { return k.Name == name || k.Fallback == name })
	if err != nil || math.IsInf(value, 0) || !counterName.MatchString(name) || (!kept && c.others == maxCounters) {
		c.leftOut++
		return
	}
	if !kept {
		c.others++
	}
	c.counters[name] = value
}

// enterObject reads the next token and reports whether it opens an object.
func enterObject(dec *json.Decoder) bool {
	token, err := dec.Token()
	return err == nil && token == json.Delim('{')
}

func skipValue(dec *json.Decoder) error {
	var skipped json.RawMessage
	return dec.Decode(&skipped)
}

package collectors

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
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
	maxBody        = 1 << 20
	maxHeader      = 64 << 10
	maxCounters    = 64
	maxErrorLength = 200
)

var counterName = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,63}$`)

// HTTPClient sends the HTTP probes of all services over one transport.
type HTTPClient struct{ transport *http.Transport }

// NewHTTPClient makes the client. It speaks to the services directly, whatever
// proxy the environment names, and as a transport without a client, which
// follows no redirect: another host's answer is not the service's.
func NewHTTPClient() *HTTPClient {
	return &HTTPClient{&http.Transport{
		DialContext:            (&net.Dialer{}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        2 * time.Minute,
		MaxResponseHeaderBytes: maxHeader,
	}}
}

// Close frees the idle connections.
func (c *HTTPClient) Close() { c.transport.CloseIdleConnections() }

// JSON probes base+path and reads the counters of its answer, those in keep and
// others up to a limit; nil without base.
func (c *HTTPClient) JSON(base, path string, keep ...string) Probe {
	return c.probe(base, path, func(r *Reading, body []byte) {
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

// Status probes base+path for its HTTP status alone; nil without base.
func (c *HTTPClient) Status(base, path string) Probe {
	return c.probe(base, path, func(*Reading, []byte) {})
}

func (c *HTTPClient) probe(base, path string, read func(*Reading, []byte)) Probe {
	if base == "" {
		return nil
	}
	return func(ctx context.Context) Reading {
		begin := time.Now()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
		if err != nil {
			return Reading{Status: Unknown, Err: "not a valid URL"}
		}
		req.Header.Set("Accept", "application/json")
		req.Header.Set("User-Agent", "ops-worker")
		if id := traceID(ctx); id != "" {
			req.Header.Set(traceHeader, id)
		}
		resp, err := c.transport.RoundTrip(req)
		if err != nil {
			return failedReading(ctx, err, begin)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
		reading := Reading{Status: Healthy, HTTPStatus: resp.StatusCode, Latency: time.Since(begin)}
		switch {
		case resp.StatusCode != http.StatusOK:
			reading.Status = Degraded
		case err != nil:
			failed := failedReading(ctx, err, begin)
			failed.HTTPStatus = resp.StatusCode
			return failed
		default:
			read(&reading, body)
		}
		return reading
	}
}

// TCP probes by connecting to address; nil without one.
func TCP(address string) Probe {
	if address == "" {
		return nil
	}
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

// Query probes the database by a query of its own.
func Query(query func(context.Context) error) Probe {
	return func(ctx context.Context) Reading {
		begin := time.Now()
		if err := query(ctx); err != nil {
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
		return Reading{Status: Unknown, Err: "no such host"}
	}
	// The URL may hold a password or a token, and the error quotes it.
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	return Reading{Status: Unknown, Err: plainText(err.Error())}
}

// plainText makes a text fit for a table and a log line: no NUL, which
// PostgreSQL refuses, no control characters, no invalid UTF-8, not endless.
func plainText(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxErrorLength {
		text = strings.ToValidUTF8(text[:maxErrorLength], "") + "…"
	}
	return text
}

// parseCounters reads the numeric counters of a health answer: those in keep,
// and the first 64 others that may be stored. It fails only where body is no
// JSON; an answer of another shape has no counters. The others that may not be
// stored are counted: no finite number, no proper name, or one too many.
// It reads token by token, so that an answer costs what is kept of it.
func parseCounters(body []byte, keep []string) (counters map[string]float64, leftOut int, err error) {
	if !json.Valid(body) {
		return nil, 0, errors.New("no JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if !enterObject(dec) {
		return nil, 0, nil
	}
	counters = map[string]float64{}
	others := 0
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
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, 0, err
			}
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				return nil, 0, err
			}
			name, _ := key.(string)
			value, err := strconv.ParseFloat(string(raw), 64)
			_, seen := counters[name]
			kept := seen || slices.Contains(keep, name)
			if err != nil || math.IsInf(value, 0) || !counterName.MatchString(name) || (!kept && others == maxCounters) {
				leftOut++
				continue
			}
			if !kept {
				others++
			}
			counters[name] = value
		}
		if _, err := dec.Token(); err != nil {
			return nil, 0, err
		}
	}
	return counters, leftOut, nil
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

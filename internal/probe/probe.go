// Package probe asks one service how it is, by HTTP, TCP or a query; knows the
// instances behind a name; and makes running totals of what they count.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/humanize"
)

// Status is what a probe found: the words of the platform's details.status.
type Status string

// The statuses of a probe. service_health.status knows healthy and, for the
// other three, unhealthy.
const (
	Healthy  Status = "healthy"  // answered 200; an extra service 2xx
	Degraded Status = "degraded" // answered anything else
	Down     Status = "down"     // no connection could be made: refused, no such host, unreachable
	Unknown  Status = "unknown"  // time-out, no JSON, …
)

// Reading is what one probe brought back.
type Reading struct {
	Status Status
	// Latency is how long the answer took, from the first attempt to connect; 0 when
	// nothing answered.
	Latency time.Duration
	// HTTPStatus is 0 where no HTTP was spoken.
	HTTPStatus int
	// Counters are the numeric counters of the answer that may be stored.
	Counters map[string]float64
	// LeftOut counts the counters that may not.
	LeftOut int
	// Err says why a Down or an Unknown is one: plain text, without secrets.
	Err string
	// Cause is the error behind Err, to tell one from another. Its text may hold a
	// secret.
	Cause error
	// Location is the scheme and host to which a redirect leads.
	Location string
	// CertificateEnds is when the service's certificate ends, verified or not; zero where
	// none was seen.
	CertificateEnds time.Time
	// Remote is the address that the connection led to.
	Remote string
}

// Reason is the reading in the few words of an alert's summary.
func (r Reading) Reason() string {
	switch {
	case r.Status == Degraded && r.HTTPStatus != 0:
		return fmt.Sprintf("HTTP %d", r.HTTPStatus)
	case r.Err != "":
		return r.Err
	case r.Status == Down: // noted by another monitor
		return "no connection"
	}
	return string(r.Status)
}

// CertificateNotice says that a certificate ends within 14 days, or has ended. It is
// empty otherwise, and where there is no certificate.
func CertificateNotice(ends, now time.Time) string {
	left, at := ends.Sub(now), ends.UTC().Format("2006-01-02 15:04 UTC")
	switch {
	case ends.IsZero() || left > 14*24*time.Hour:
		return ""
	case left <= 0:
		return fmt.Sprintf("the certificate ended %s ago, on %s", humanize.Age(left.Round(time.Second)), at)
	}
	return fmt.Sprintf("the certificate ends in %s, on %s", humanize.Age(left.Round(time.Second)), at)
}

// Probe asks one service how it is, on a new connection. It answers within ctx's
// deadline and has no error: whatever goes wrong is the reading.
type Probe func(ctx context.Context) Reading

// query probes the database.
func query(ping func(context.Context) error) Probe {
	return func(ctx context.Context) Reading {
		begin := time.Now()
		err := ping(ctx)
		var lookup *net.DNSError
		if errors.As(err, &lookup) && lookup.IsNotFound { // each attempt of the pool looks it up
			err = errNoHost
		}
		if err != nil {
			return failedReading(ctx, err, begin)
		}
		return Reading{Status: Healthy, Latency: time.Since(begin)}
	}
}

var (
	errNoHost = errors.New("no such host")
	errClosed = errors.New("the connection was closed before the answer was whole")
)

// noConnection are the errors that make a service down, as the contract has it, and
// their words for people; any other makes it unknown.
var noConnection = []struct {
	err   error
	words string
}{
	{syscall.ECONNREFUSED, "connection refused"},
	{syscall.EHOSTUNREACH, "host unreachable"},
	{syscall.ENETUNREACH, "network unreachable"},
	{errNoHost, errNoHost.Error()},
}

// failedReading classifies an error.
func failedReading(ctx context.Context, err error, begin time.Time) Reading {
	for _, n := range noConnection {
		if errors.Is(err, n.err) {
			return Reading{Status: Down, Err: n.words}
		}
	}
	var netErr net.Error
	if ctx.Err() != nil || (errors.As(err, &netErr) && netErr.Timeout()) {
		return Reading{Status: Unknown, Err: "no answer within " + time.Since(begin).Round(100*time.Millisecond).String()}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errClosed
	}
	return Reading{Status: Unknown, Err: plainCause(err)}
}

// plainCause is the text of an error, without the name server's address.
func plainCause(err error) string {
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) {
		return faultlog.PlainText(dnsErr.Err)
	}
	text := faultlog.PlainText(err.Error())
	if strings.Contains(text, "malformed HTTP") || strings.Contains(text, "readLoopPeekFail") { // of a service that speaks first
		return "the answer is not HTTP"
	}
	return text
}

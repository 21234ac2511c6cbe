package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	exponential "github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

const requestTimeout = 10 * time.Second

// newRetry waits from 1 s to 1 minute.
func newRetry() *exponential.ExponentialBackOff {
	retry := backoff.New(time.Minute)
	retry.InitialInterval = 2 * time.Second // of which the jitter takes up to a half
	retry.Reset()
	return retry
}

// receiver is a URL of the settings. Its path, query and user may be a secret, so errors
// name the setting, the scheme and the host.
type receiver struct {
	setting   string
	url       *url.URL
	transport http.RoundTripper
}

func newReceiver(setting, address string, transport http.RoundTripper) receiver {
	to, err := url.Parse(address)
	if err != nil {
		to = &url.URL{} // which nothing can be sent to; the settings have no such URL
	}
	return receiver{setting, to, transport}
}

// newTransport gives each request a connection of its own: requests are rare, and a kept
// connection may be dead by the next one.
func newTransport(cas *x509.CertPool) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.MaxResponseHeaderBytes = 64 << 10
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cas}
	return t
}

// request succeeds if the answer is 2xx. RoundTrip follows no redirect: no other host
// gets the message. Nobody reads the answer's body.
func (r receiver) request(ctx context.Context, method string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request := (&http.Request{Method: method, URL: r.url, Header: http.Header{}}).WithContext(ctx)
	if body != nil {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		request.Header.Set("Content-Type", "application/json")
	}
	if user := r.url.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	request.Header.Set("User-Agent", "ops_worker")
	request.Header.Set("X-Trace-ID", uuid.NewString())
	response, err := r.transport.RoundTrip(request)
	if err == nil {
		_ = response.Body.Close()
		if response.StatusCode >= 200 && response.StatusCode <= 299 {
			return nil
		}
		err = refusal(response.StatusCode)
	}
	origin := url.URL{Scheme: r.url.Scheme, Host: r.url.Host}
	return fmt.Errorf("%s (%s): %w", r.setting, &origin, withoutSecrets(err))
}

// refusal is the HTTP status of an answer other than 2xx.
type refusal int

func (r refusal) Error() string {
	if r >= 300 && r <= 399 {
		return fmt.Sprintf("HTTP status %d, a redirect, which is not followed", int(r))
	}
	return fmt.Sprintf("HTTP status %d", int(r))
}

// refused says whether there was an answer.
func refused(err error) bool {
	var status refusal
	return errors.As(err, &status)
}

// withoutSecrets keeps the text of errors of the network and of certificates. Any other
// may quote the answer, which may quote the request, or a proxy's password.
func withoutSecrets(err error) error {
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case refused(err):
		return err
	case errors.As(err, &certificate):
		return errors.New(faultlog.PlainText(certificate.Error()))
	case errors.As(err, &network):
		return errors.New(faultlog.PlainText(network.Error()))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", requestTimeout)
	case errors.Is(err, io.EOF):
		return errors.New("the connection was closed without an answer")
	}
	return errors.New("no valid HTTP answer, or none from the proxy")
}

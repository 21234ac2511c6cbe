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
	"os"
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
	setting string
	url     *url.URL
	client  *http.Client
}

// newReceiver takes a URL that is one, as the settings are.
func newReceiver(setting, address string, transport http.RoundTripper) receiver {
	to, err := url.Parse(address)
	if err != nil {
		to = &url.URL{}
	}
	return receiver{setting, to, &http.Client{
		Transport: transport,
		Timeout:   requestTimeout,
		// No other host gets the message.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// newTransport gives each request a connection of its own: requests are rare, and a kept
// connection may be dead by the next one.
func newTransport(cas *x509.CertPool) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cas}
	return t
}

// request succeeds if the answer is 2xx. Nobody reads the answer's body.
func (r receiver) request(ctx context.Context, method string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, r.url.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: is no URL", r.setting) // the error has it
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("User-Agent", "ops_worker")
	request.Header.Set("X-Trace-ID", uuid.NewString())
	response, err := r.client.Do(request)
	if err == nil {
		_ = response.Body.Close()
		if response.StatusCode >= 200 && response.StatusCode <= 299 {
			return nil
		}
		err = refusal(response.StatusCode)
	}
	return fmt.Errorf("%s (%s://%s): %w", r.setting, r.url.Scheme, r.url.Host, withoutSecrets(err))
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
	case os.IsTimeout(err):
		return fmt.Errorf("no answer within %s", requestTimeout)
	case errors.Is(err, io.EOF):
		return errors.New("the connection was closed without an answer")
	}
	return errors.New("no valid HTTP answer, or none from the proxy")
}

package probe

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ops_worker/internal/certtest"
	"ops_worker/internal/config"
)

// A service whose certificate a private authority has signed is asked where
// HEALTH_CA_FILE names that, and nothing else is taken for it.
func TestAPrivateAuthority(t *testing.T) {
	t.Parallel()
	ours, theirs := certtest.New(t), certtest.New(t)
	for name, test := range map[string]struct {
		pair   certtest.Pair
		caFile string
		status Status
		err    string
	}{
		"signed by it":         {ours.Issue("127.0.0.1", time.Hour), ours.File, Healthy, ""},
		"no authority named":   {ours.Issue("127.0.0.1", time.Hour), "", Unknown, "certificate signed by unknown authority"},
		"signed by another":    {theirs.Issue("127.0.0.1", time.Hour), ours.File, Unknown, "certificate signed by unknown authority"},
		"expired":              {ours.Issue("127.0.0.1", -time.Hour), ours.File, Unknown, "certificate has expired"},
		"of another host":      {ours.Issue("127.0.0.2", time.Hour), ours.File, Unknown, "certificate is valid for 127.0.0.2, not 127.0.0.1"},
		"of another host name": {ours.Issue("iot-ingest", time.Hour), ours.File, Unknown, "doesn't contain any IP SANs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Write([]byte(`{"counters":{"messages_received":12}}`))
			}))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{test.pair.Load(t)}}
			server.StartTLS()
			t.Cleanup(server.Close)
			environ := []string{"INGEST_HEALTH_URL=" + strings.Replace(server.URL, "https://", "https://u:hunter2@", 1)}
			if test.caFile != "" {
				environ = append(environ, "HEALTH_CA_FILE="+test.caFile)
			}
			cfg, err := config.FromEnvironment(environ)
			if err != nil {
				t.Fatal(err)
			}
			client := NewClient(cfg)
			reading := only(client.counters(cfg.Services[0].Addresses[0], named))(t.Context())
			if reading.Status != test.status || !strings.Contains(reading.Err, test.err) || strings.Contains(reading.Err, "hunter2") {
				t.Errorf("%s, %q; want %s, %q", reading.Status, reading.Err, test.status, test.err)
			}
		})
	}
}

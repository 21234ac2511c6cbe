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
// HEALTH_CA_FILE names that, and nothing else is taken for it. A certificate that is
// refused still says when it ends.
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
			for how, ask := range map[string]asking{
				"a GET":       client.counters(cfg.Services[0].Addresses[0], named),
				"a handshake": client.tls(server.Listener.Addr().String()),
			} {
				reading := only(ask)(t.Context())
				if reading.Status != test.status || !strings.Contains(reading.Err, test.err) || strings.Contains(reading.Err, "hunter2") || strings.Contains(reading.Err, "tls:") {
					t.Errorf("%s: %s, %q; want %s, %q", how, reading.Status, reading.Err, test.status, test.err)
				}
				if want := test.pair.Load(t).Leaf.NotAfter; !reading.CertificateEnds.Equal(want) {
					t.Errorf("%s: the certificate ends at %s, want %s", how, reading.CertificateEnds, want)
				}
			}
		})
	}
}

func TestTheEarliestCertificateOfTheInstancesCounts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ending := func(at time.Time) InstanceReading {
		return InstanceReading{Reading: Reading{Status: Healthy, CertificateEnds: at}}
	}
	for _, instances := range [][]InstanceReading{
		{ending(now), {Reading: Reading{Status: Down}}, ending(now.Add(time.Hour))},
		{{Reading: Reading{Status: Down}}, ending(now.Add(time.Hour)), ending(now)},
	} {
		if o := merge("ingest", instances); !o.CertificateEnds.Equal(now) {
			t.Errorf("the certificate ends at %s, want %s", o.CertificateEnds, now)
		}
	}
}

func TestCertificateNotice(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for want, ends := range map[string]time.Time{
		"": {},
		"the certificate ends in 14d, on 2026-03-18 12:00 UTC":    now.Add(14 * 24 * time.Hour),
		"the certificate ends in 1h30m, on 2026-03-04 13:30 UTC":  now.Add(90 * time.Minute).In(time.FixedZone("", 3600)),
		"the certificate ended 0s ago, on 2026-03-04 12:00 UTC":   now,
		"the certificate ended 400d ago, on 2025-01-28 12:00 UTC": now.Add(-400 * 24 * time.Hour),
	} {
		if got := CertificateNotice(ends, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := CertificateNotice(now.Add(14*24*time.Hour+time.Second), now); got != "" {
		t.Errorf("too early: %q", got)
	}
}

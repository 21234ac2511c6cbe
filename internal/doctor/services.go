package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/probe"
)

// services are asked beside the first checks, as the health monitor asks them.
type services struct {
	targets  []probe.Target
	answered chan []probe.Observation
	probing  sync.WaitGroup
}

// probeServices begins to ask, for as long as limit.
func probeServices(ctx context.Context, cfg config.Config, resolver probe.Resolver, ping func(context.Context) error, limit time.Duration) *services {
	client := probe.NewClient(cfg)
	if resolver != nil {
		client.Resolver = resolver
	}
	s := &services{targets: probe.Targets(append(slices.Clone(cfg.Services), receivers(cfg)...), client, ping), answered: make(chan []probe.Observation, 1)}
	s.probing.Go(func() {
		began := time.Now()
		finding, cancel := context.WithTimeout(ctx, limit/2)
		client.FindInstances(finding, zerolog.Nop())
		cancel()
		s.answered <- probe.Observe(ctx, s.targets, limit-time.Since(began))
	})
	return s
}

// receivers are who is told of alerts and of stores, as services to connect to: nothing is
// sent. One behind a proxy is not looked for.
func receivers(cfg config.Config) (list []config.Service) {
	for _, r := range []struct{ name, variable, address string }{
		{"alert webhook", "ALERT_WEBHOOK_URL", cfg.AlertWebhookURL}, {"dead man's switch", "HEARTBEAT_URL", cfg.HeartbeatURL},
	} {
		to, err := url.Parse(r.address)
		if err != nil || to.Host == "" {
			continue
		}
		if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: to}); proxy != nil || err != nil {
			continue
		}
		s := config.Service{Name: r.name, Variable: r.variable, Extra: true, Kind: config.ProbeTCP}
		port := "80"
		if to.Scheme == "https" {
			s.Kind, port = config.ProbeTLS, "443"
		}
		s.Addresses = []string{net.JoinHostPort(to.Hostname(), cmp.Or(to.Port(), port))}
		list = append(list, s)
	}
	return list
}

func checkServices(ctx context.Context, r *run, f *findings) error {
	var observations []probe.Observation
	select {
	case observations = <-r.services.answered:
	case <-ctx.Done():
		return ctx.Err()
	}
	var healthy []string
	for i, o := range observations {
		advice := serviceAdvice(r.services.targets[i].Service, o)
		switch o.Status {
		case probe.Healthy:
			text := o.Service + " " + latency(o.Latency)
			if n := len(o.Instances); n > 1 {
				text += fmt.Sprintf(" (%d instances)", n)
			}
			healthy = append(healthy, text)
		case probe.Degraded:
			f.warn(advice, "%s: degraded, %s, %s", o.Service, o.Reason(), latency(o.Latency))
		default:
			f.fail(advice, "%s: %s, %s", o.Service, o.Status, o.Reason())
		}
		if notice := probe.CertificateNotice(o.CertificateEnds, time.Now()); notice != "" {
			f.warn("renew the certificate of "+o.Service, "%s: %s", o.Service, notice)
		}
	}
	if len(healthy) > 0 {
		f.note("healthy: %s", strings.Join(healthy, ", "))
	}
	return nil
}

// serviceAdvice is what mends a service, by its first instance that is not healthy.
func serviceAdvice(s config.Service, o probe.Observation) string {
	n := slices.IndexFunc(o.Instances, func(i probe.InstanceReading) bool { return i.Status != probe.Healthy })
	if n < 0 {
		return ""
	}
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch r := o.Instances[n]; {
	case s.Kind == config.ProbeDatabase:
		return "see connection"
	case r.Location != "":
		return fmt.Sprintf("correct %s: no redirect is followed, and this one leads to %s", s.Variable, r.Location)
	case r.HTTPStatus == http.StatusNotFound:
		if s.Kind == config.ProbeStatus { // Keycloak, of which the realm is half of the path
			return "correct KEYCLOAK_REALM, or " + s.Variable + ": keycloak answers, but has nothing at that path"
		}
		return fmt.Sprintf("correct %s: %s answers, but has nothing at that path", s.Variable, s.Name)
	case errors.Is(r.Cause, probe.ErrNotJSON):
		return fmt.Sprintf("correct %s: what answers there is not %s, which answers JSON", s.Variable, s.Name)
	case errors.As(r.Cause, &name):
		return fmt.Sprintf("correct the host in %s, or give %s a certificate for it", s.Variable, s.Name)
	case errors.As(r.Cause, &authority):
		return fmt.Sprintf("put the authority that signed the certificate of %s into the file of HEALTH_CA_FILE", s.Name)
	case errors.As(r.Cause, &certificate):
		return "renew the certificate of " + s.Name
	case errors.As(r.Cause, &plain):
		return fmt.Sprintf("correct %s: %s speaks no TLS at that port", s.Variable, s.Name)
	case r.Status == probe.Degraded:
		return "see the log of " + s.Name
	}
	return fmt.Sprintf("start %s, or correct %s", s.Name, s.Variable)
}

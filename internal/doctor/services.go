package doctor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
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
	s := &services{targets: probe.Targets(cfg.Services, client, ping), answered: make(chan []probe.Observation, 1)}
	s.probing.Go(func() {
		began := time.Now()
		finding, cancel := context.WithTimeout(ctx, limit/2)
		client.FindInstances(finding, zerolog.Nop())
		cancel()
		s.answered <- probe.Observe(ctx, s.targets, limit-time.Since(began))
	})
	return s
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
		target := r.services.targets[i]
		advice := fmt.Sprintf("start %s, or correct %s", o.Service, target.Variable)
		if target.Kind == config.ProbeDatabase {
			advice = "see connection"
		}
		switch o.Status {
		case probe.Healthy:
			text := o.Service + " " + latency(o.Latency)
			if n := len(o.Instances); n > 1 {
				text += fmt.Sprintf(" (%d instances)", n)
			}
			healthy = append(healthy, text)
		case probe.Degraded:
			f.warn("see the log of "+o.Service, "%s: degraded, %s, %s", o.Service, o.Reason(), latency(o.Latency))
		default:
			f.fail(advice, "%s: %s, %s", o.Service, o.Status, humanize.OneLine(o.Reason()))
		}
	}
	if len(healthy) > 0 {
		f.note("healthy: %s", strings.Join(healthy, ", "))
	}
	return nil
}

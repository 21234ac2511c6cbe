package probe

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

// Timeout bounds one exchange with a service, from the look-up of its name to
// the last byte of its answer.
const Timeout = 5 * time.Second

// Target is a service and the probe that asks it.
type Target struct {
	config.Service
	Probe Probe
}

// Targets lists the services with their probes; ping asks the database.
func Targets(services []config.Service, client *Client, ping func(context.Context) error) []Target {
	targets := make([]Target, len(services))
	for i, s := range services {
		targets[i] = Target{Service: s}
		switch s.Kind {
		case config.ProbeCounters:
			targets[i].Probe = client.counters(s.Address, s.Counters)
		case config.ProbeStatus:
			targets[i].Probe = client.status(s.Address)
		case config.ProbeTCP:
			targets[i].Probe = tcp(s.Address)
		case config.ProbeDatabase:
			targets[i].Probe = query(ping)
		}
	}
	return targets
}

// Observation is a service and what its probe brought back.
type Observation struct {
	Service string
	// Took is how long the probe was under way, answered or not.
	Took time.Duration
	Reading
}

// Observe probes all targets at once, each for at most timeout, and returns what
// they answered in their order. None waits for another: how many there may be is
// bounded by the settings.
func Observe(ctx context.Context, targets []Target, timeout time.Duration) []Observation {
	observations := make([]Observation, len(targets))
	var group errgroup.Group
	for i, t := range targets {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			begin := time.Now()
			defer faultlog.Recovered(ctx, func(err error) {
				observations[i] = Observation{Service: t.Name, Took: time.Since(begin), Reading: Reading{Status: Unknown, Err: err.Error()}}
			})
			reading := t.Probe(ctx)
			observations[i] = Observation{Service: t.Name, Took: time.Since(begin), Reading: reading}
			return nil
		})
	}
	_ = group.Wait() // a probe has no error: what goes wrong is its reading
	return observations
}

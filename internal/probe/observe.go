package probe

import (
	"context"
	"sync"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
)

// Timeout bounds one exchange with a service, from the look-up of its name to
// the last byte of its answer.
const Timeout = 5 * time.Second

// Target is a service and the probe that asks it, or its instances, each with a
// probe of its own.
type Target struct {
	config.Service
	Probe     Probe
	Instances func() []Instance
	// Answered, where set, is told of each instance that is healthy, while the others
	// are still asked, and in the time of its probe.
	Answered func(ctx context.Context, i InstanceReading)
}

// Targets lists the services with their probes; ping asks the database.
func Targets(services []config.Service, client *Client, ping func(context.Context) error) []Target {
	targets := make([]Target, len(services))
	for i, s := range services {
		targets[i] = Target{Service: s}
		var prepare func(address string) asking
		switch s.Kind {
		case config.ProbeCounters:
			prepare = func(address string) asking { return client.counters(address, s.Names) }
		case config.ProbeStatus:
			prepare = client.status
		case config.ProbeTCP:
			prepare = client.tcp
		case config.ProbeDatabase:
			targets[i].Probe = query(ping)
			continue
		}
		entries := client.newService(s, prepare)
		targets[i].Instances = func() []Instance {
			instances := client.instancesOf(entries)
			return instances[:min(len(instances), config.MaxInstances)]
		}
	}
	return targets
}

// instances are those that are asked now.
func (t Target) instances() []Instance {
	if t.Instances == nil {
		return []Instance{{Address: t.Name, Probe: t.Probe}}
	}
	return t.Instances()
}

// Observation is a service and what its probes brought back: of several instances
// what they are together.
type Observation struct {
	Service string
	// Took is how long the longest probe was under way, answered or not.
	Took time.Duration
	Reading
	Instances []InstanceReading
}

// InstanceReading is what one instance brought back.
type InstanceReading struct {
	// Address is the instance's host:port, or that of its name.
	Address string
	// Key tells the one that answered from all others of its service.
	Key string
	Reading
	took time.Duration
	// Again asks it once more.
	Again Probe
}

// Observe probes all instances of all targets at once, each for at most timeout,
// and returns what they answered in the targets' order. None waits for another:
// how many are in flight is bounded by how many there may be.
func Observe(ctx context.Context, targets []Target, timeout time.Duration) []Observation {
	readings := make([][]InstanceReading, len(targets))
	var probing sync.WaitGroup
	for i, t := range targets {
		instances := t.instances()
		readings[i] = make([]InstanceReading, len(instances))
		for n, instance := range instances {
			reading := &readings[i][n]
			reading.Address, reading.Again = instance.Address, instance.Probe
			probing.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				reading.probe(ctx, instance)
				if t.Answered != nil && reading.Status == Healthy {
					defer faultlog.Recovered(ctx, func(error) {})
					t.Answered(ctx, *reading)
				}
			})
		}
	}
	probing.Wait()
	observations := make([]Observation, len(targets))
	for i, t := range targets {
		observations[i] = merge(t.Name, readings[i])
	}
	return observations
}

func (i *InstanceReading) probe(ctx context.Context, instance Instance) {
	begin := time.Now()
	defer func() {
		i.took, i.Key = time.Since(begin), instance.id+i.Remote
	}()
	defer faultlog.Recovered(ctx, func(err error) {
		i.Reading = Reading{Status: Unknown, Err: err.Error()}
	})
	i.Reading = instance.Probe(ctx)
}

package probe

import (
	"context"
	"fmt"
	"slices"
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
		var entry func(address string) asking
		switch s.Kind {
		case config.ProbeCounters:
			entry = func(address string) asking { return client.counters(address, s.Names) }
			if s.Extra {
				entry = client.extra
			}
		case config.ProbeStatus:
			entry = client.status
		case config.ProbeTCP:
			entry = client.tcp
		case config.ProbeTLS:
			entry = client.tls
		case config.ProbeDatabase:
			targets[i].Probe = query(ping)
			continue
		}
		of := &service{name: s.Name, spread: client.instances && !s.Extra}
		for _, address := range s.Addresses {
			of.entries = append(of.entries, entry(address))
		}
		client.services = append(client.services, of)
		targets[i].Instances = func() []Instance {
			instances := of.instances()
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
	Former  string // config.Service.Former
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
			probing.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, timeout)
				defer cancel()
				reading := &readings[i][n]
				*reading = ask(ctx, instance)
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
		observations[i].Former = t.Former
	}
	return observations
}

// ask is what an instance brings back. A panic is an answer too.
func ask(ctx context.Context, instance Instance) (i InstanceReading) {
	i.Address, i.Again = instance.Address, instance.Probe
	begin := time.Now()
	defer func() { i.took, i.Key = time.Since(begin), instance.id+i.Remote }()
	defer faultlog.Recovered(ctx, func(err error) { i.Reading = Reading{Status: Unknown, Err: err.Error()} })
	i.Reading = instance.Probe(ctx)
	return i
}

// merge makes one observation of what a service's instances brought back. The
// reading of a single one stays as it is.
func merge(service string, instances []InstanceReading) Observation {
	o := Observation{Service: service, Instances: instances}
	for _, i := range instances {
		o.Took = max(o.Took, i.took)
	}
	if len(instances) == 1 {
		o.Reading = instances[0].Reading
		return o
	}
	sums := map[string]float64{}
	for _, i := range instances {
		o.Latency = max(o.Latency, i.Latency)
		o.LeftOut = max(o.LeftOut, i.LeftOut)
		if ends := i.CertificateEnds; o.CertificateEnds.IsZero() || !ends.IsZero() && ends.Before(o.CertificateEnds) {
			o.CertificateEnds = ends
		}
		for name, value := range i.Counters {
			sums[name] += value
		}
	}
	worst := slices.MinFunc(instances, func(a, b InstanceReading) int { return informative(a.Status) - informative(b.Status) })
	if worst.Status == Healthy {
		o.Status, o.HTTPStatus, o.Counters = Healthy, worst.HTTPStatus, sums
		return o
	}
	o.Status = worst.Status
	healthy := o.Healthy()
	if healthy > 0 {
		o.Status = Degraded
	}
	o.Err = fmt.Sprintf("%d of %d instances: %s", len(instances)-healthy, len(instances), worst.Reading.Reason())
	return o
}

// informative orders statuses, the failure that says most first.
func informative(s Status) int { return slices.Index([]Status{Degraded, Down, Unknown, Healthy}, s) }

// Healthy is how many of the instances are.
func (o Observation) Healthy() (n int) {
	for _, i := range o.Instances {
		if i.Status == Healthy {
			n++
		}
	}
	return n
}

// Up reports whether the service counts as healthy where there are two words for
// it: all of it is, or at least half of its instances.
func (o Observation) Up() bool {
	if len(o.Instances) < 2 {
		return o.Status == Healthy
	}
	return 2*o.Healthy() >= len(o.Instances)
}

// Reason is the observation in the few words of an alert's summary.
func (o Observation) Reason() string {
	if len(o.Instances) > 1 && o.Status != Healthy {
		return o.Err
	}
	return o.Reading.Reason()
}

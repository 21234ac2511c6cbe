package probe

import (
	"fmt"
	"slices"
)

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

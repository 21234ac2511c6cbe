package probe

import "fmt"

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
	healthy, failed := o.Healthy(), -1
	for n, i := range instances {
		o.Latency = max(o.Latency, i.Latency)
		o.LeftOut = max(o.LeftOut, i.LeftOut)
		if i.Status != Healthy && (failed < 0 || severity(i.Status) < severity(instances[failed].Status)) {
			failed = n
		}
	}
	if failed < 0 {
		o.Status, o.HTTPStatus, o.Counters = Healthy, instances[0].HTTPStatus, sums(instances)
		return o
	}
	o.Status = instances[failed].Status
	if healthy > 0 {
		o.Status = Degraded
	}
	o.Err = fmt.Sprintf("%d of %d instances: %s", len(instances)-healthy, len(instances), instances[failed].Reading.Reason())
	return o
}

// severity orders what failures are, the one first that says most.
func severity(s Status) int {
	switch s {
	case Degraded:
		return 0
	case Down:
		return 1
	}
	return 2
}

// sums are the counters of all instances, added up.
func sums(instances []InstanceReading) map[string]float64 {
	total := map[string]float64{}
	for _, i := range instances {
		for name, value := range i.Counters {
			total[name] += value
		}
	}
	return total
}

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

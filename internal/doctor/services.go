package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"ops_worker/internal/config"
	"ops_worker/internal/humanize"
	"ops_worker/internal/probe"
)

func checkServices(ctx context.Context, r *run, f *findings) error {
	observations, err := r.observations(ctx)
	if err != nil {
		return err
	}
	well := 0
	for i, o := range observations {
		target := r.targets[i]
		advice := fmt.Sprintf("start %s, or correct %s", o.Service, target.Variable)
		switch {
		case target.Kind == config.ProbeDatabase:
			advice = "see connection"
		case target.AllCounters && len(observations) > mostFound:
			advice = "start them, or correct " + target.Variable
		}
		if target.AllCounters && o.Status == probe.Healthy {
			if well++; well > shownWell {
				continue
			}
		}
		switch o.Status {
		case probe.Healthy:
			f.note("%s: healthy, %s%s%s", o.Service, latency(o.Latency), instances(o), unreported(target, o))
		case probe.Degraded:
			f.warn(fmt.Sprintf("see the log of %s", o.Service), "%s: degraded, %s, %s", o.Service, o.Reason(), latency(o.Latency))
		default:
			f.fail(advice, "%s: %s, %s", o.Service, o.Status, humanize.OneLine(o.Reason()))
		}
		if mixed := r.mixed.of(o.Service); len(mixed) > 0 {
			f.warn(probe.SeveralAdvice(target.Variable),
				"%s: several instances answer at %s: counters that cannot be told apart are not stored", o.Service, strings.Join(mixed, ", "))
		}
		if slow := r.mixed.unknown[o.Service]; len(slow) > 0 {
			f.note("%s: %s answers too slowly to be asked often enough: whether several instances are behind it is not known", o.Service, strings.Join(slow, ", "))
		}
	}
	if well > shownWell {
		f.note("%d more extra services are healthy", well-shownWell)
	}
	return nil
}

// shownWell is how many extra services that are healthy have a line of their own.
const shownWell = 20

// instances says how many there are, where there are more than one.
func instances(o probe.Observation) string {
	if len(o.Instances) < 2 {
		return ""
	}
	return fmt.Sprintf(", %d instances", len(o.Instances))
}

// mixedAddresses are those at which several instances of a service answer.
type mixedAddresses struct {
	mu             sync.Mutex
	found, unknown map[string][]string // by service; of those that are unknown it was not found out
}

// watch lets each address of the targets' be asked again.
func (m *mixedAddresses) watch(targets []probe.Target) {
	m.found, m.unknown = map[string][]string{}, map[string][]string{}
	for n, t := range targets {
		if !slices.ContainsFunc(t.Counters, func(c config.Counter) bool { return !c.Gauge }) {
			continue
		}
		targets[n].Answered = func(ctx context.Context, i probe.InstanceReading) {
			several, known := i.Several(ctx, t.Totals)
			m.mu.Lock()
			defer m.mu.Unlock()
			switch {
			case several:
				m.found[t.Name] = append(m.found[t.Name], i.Address)
			case !known:
				m.unknown[t.Name] = append(m.unknown[t.Name], i.Address)
			}
		}
	}
}

func (m *mixedAddresses) of(service string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(slices.Values(m.found[service]))
}

// unreported names the counters that a service should report and does not.
func unreported(target probe.Target, o probe.Observation) string {
	var missing []string
	for _, counter := range target.Counters {
		if _, ok := counter.Of(o.Counters); !ok {
			missing = append(missing, counter.Name)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return "; it does not report " + strings.Join(missing, ", ") + ", stored as 0"
}

// observations are what the services answered.
func (r *run) observations(ctx context.Context) ([]probe.Observation, error) {
	return r.observed.get(func() ([]probe.Observation, error) {
		select {
		case observations := <-r.probed:
			return observations, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// monitors reports whether the settings name a service.
func (r *run) monitors(service string) bool {
	return slices.ContainsFunc(r.targets, func(t probe.Target) bool { return t.Name == service })
}

// variableOf is the setting that says where a service is, monitored or not.
func variableOf(service string) string {
	for _, s := range config.PlatformServices() {
		if s.Name == service {
			return s.Variable
		}
	}
	return config.ExtraServicesVariable
}

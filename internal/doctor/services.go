package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ops_worker/internal/config"
	"ops_worker/internal/probe"
)

func checkServices(ctx context.Context, r *run, f *findings) error {
	observations, err := r.observations(ctx)
	if err != nil {
		return err
	}
	for i, o := range observations {
		target := r.targets[i]
		advice := fmt.Sprintf("start %s, or correct %s", o.Service, target.Variable)
		if target.Kind == config.ProbeDatabase {
			advice = "see connection"
		}
		switch o.Status {
		case probe.Healthy:
			f.note("%s: healthy, %s%s", o.Service, latency(o.Latency), unreported(target, o))
		case probe.Degraded:
			f.warn(fmt.Sprintf("see the log of %s", o.Service), "%s: degraded, %s, %s", o.Service, o.Reason(), latency(o.Latency))
		default:
			f.fail(advice, "%s: %s, %s", o.Service, o.Status, oneLine(o.Reason()))
		}
	}
	return nil
}

// unreported names the counters that a service should report and does not.
func unreported(target probe.Target, o probe.Observation) string {
	var missing []string
	for _, counter := range target.Counters {
		if _, ok := o.Counters[counter.Name]; !ok {
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

package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ops_worker/collectors"
)

func checkServices(ctx context.Context, x *examination, f *findings) error {
	var observations []collectors.Observation
	select {
	case observations = <-x.probed:
	case <-ctx.Done():
		return ctx.Err()
	}
	for i, o := range observations {
		service := x.services[i]
		advice := fmt.Sprintf("start %s, or correct %s", o.Service, variableOf(o.Service))
		if o.Service == "postgres" {
			advice = "see connection"
		}
		switch o.Status {
		case collectors.Healthy:
			counters := ""
			if len(service.Counters) > 0 {
				var missing []string
				for _, name := range service.Counters {
					if _, ok := o.Counters[name]; !ok {
						missing = append(missing, name)
					}
				}
				if len(missing) > 0 {
					counters = "; it does not report " + strings.Join(missing, ", ") + ", stored as 0"
				}
			}
			f.note("%s: healthy, %s%s", o.Service, latency(o.Latency), counters)
		case collectors.Degraded:
			f.warn(fmt.Sprintf("see the log of %s", o.Service), "%s: degraded, %s, %s", o.Service, o.Reason(), latency(o.Latency))
		default:
			f.fail(advice, "%s: %s, %s", o.Service, o.Status, oneLine(o.Reason()))
		}
	}
	return nil
}

// monitors reports whether the settings name a service.
func (x *examination) monitors(service string) bool {
	return slices.ContainsFunc(x.services, func(s collectors.Service) bool { return s.Name == service })
}

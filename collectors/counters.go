package collectors

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

const (
	mixedBegins = "several instances answer behind one address, the service's counters are not stored"
	mixedEnds   = "the service's counters are stored again"
	newestFails = "stored counters cannot be read, none are stored until they can"
	newestWorks = "stored counters can be read again"
)

// counterKeeper makes the samples of what the platform's services count.
type counterKeeper struct {
	services map[string]*keptCounters
	begun    bool
	token    lease.Token // of the term that has begun
	resumed  bool        // in this term
	reading  faultlog.Log
}

// keptCounters are those of one service.
type keptCounters struct {
	service config.Service
	totals  *probe.Totals
	mixing  faultlog.Log
}

// newCounterKeeper prepares the targets for it. Extra services have no totals.
func newCounterKeeper(targets []probe.Target) *counterKeeper {
	k := &counterKeeper{services: map[string]*keptCounters{}}
	for i, t := range targets {
		if t.AllCounters {
			continue
		}
		kept := &keptCounters{service: t.Service, totals: probe.NewTotals(t.Service)}
		k.services[t.Name] = kept
		if slices.ContainsFunc(t.Counters, func(c config.Counter) bool { return !c.Gauge }) {
			targets[i].Answered = kept.totals.Ask
		}
	}
	return k
}

// begin starts a term, where the token is another's, and reports whether it is.
func (k *counterKeeper) begin(token lease.Token) bool {
	if k.begun && k.token == token {
		return false
	}
	k.begun, k.token, k.resumed = true, token, false
	for _, kept := range k.services {
		kept.totals.Begin()
	}
	return true
}

// resume finds out, once a term, where the totals go on from: what is stored, or waits
// for that in the buffer. Without it there are none.
func (k *counterKeeper) resume(ctx context.Context, store Store, waiting func() []spool.Cycle) {
	if k.resumed {
		return
	}
	var series []Series
	for _, kept := range k.services {
		for _, counter := range kept.service.Counters {
			if !counter.Gauge {
				series = append(series, Series{kept.service.Name, counter.Name})
			}
		}
	}
	cycles := waiting() // first: what is stored meanwhile stands in one of the two
	values, err := store.NewestValues(ctx, series)
	k.reading.Observe(*zerolog.Ctx(ctx), err, newestFails, newestWorks)
	if err != nil {
		return
	}
	for _, c := range cycles {
		for _, s := range c.Samples {
			key := Series{s.Service, s.Metric}
			if before, ok := values[key]; !ok || math.IsNaN(before) || before < s.Value {
				values[key] = s.Value
			}
		}
	}
	stored := map[string]map[string]float64{}
	for _, s := range series {
		if value, ok := values[s]; ok {
			if stored[s.Service] == nil {
				stored[s.Service] = map[string]float64{}
			}
			stored[s.Service][s.Metric] = value
		}
	}
	for name, kept := range k.services {
		kept.totals.Resume(stored[name])
	}
	k.resumed = true
}

// append adds the counters of a service, of which some instance has answered: its
// totals, and its gauges where every instance has; of these the ones besides the
// contract's only where withGauges says so.
func (k *counterKeeper) append(ctx context.Context, samples []spool.Sample, o probe.Observation, withGauges bool) []spool.Sample {
	kept := k.services[o.Service]
	totals, mixed := kept.totals.Add(o)
	var fault error
	if len(mixed) > 0 {
		fault = fmt.Errorf("%s: %s", strings.Join(mixed, ", "), probe.SeveralAdvice(kept.service.Variable))
	}
	kept.mixing.Observe(zerolog.Ctx(ctx).With().Str("monitored", o.Service).Logger(), fault, mixedBegins, mixedEnds)
	if fault != nil {
		return samples // a gauge of one of several is too little
	}
	for _, counter := range kept.service.Counters {
		value, known := totals[counter.Name]
		if counter.Gauge {
			value, known = gaugeOf(o, counter)
		}
		if known {
			samples = append(samples, sampleOf(o.Service, counter.Name, value))
		}
	}
	if !withGauges {
		return samples
	}
	for _, name := range kept.service.Gauges {
		if value, ok := o.Counters[name]; ok {
			samples = append(samples, sampleOf(o.Service, name, value))
		}
	}
	return samples
}

// gaugeOf is the sum of all instances, if all have answered.
func gaugeOf(o probe.Observation, counter config.Counter) (sum float64, known bool) {
	for _, i := range o.Instances {
		value, _ := counter.Of(i.Counters)
		sum += value
	}
	return sum, o.Status == probe.Healthy
}

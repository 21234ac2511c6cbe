package collectors

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// counterKeeper makes the samples of the platform services' counters.
type counterKeeper struct {
	store    Store
	services map[string]*serviceCounters
	token    lease.Token // of the newest term
	resumed  bool        // in this term
	reading  faultlog.Log
}

// serviceCounters are the counters of one service.
type serviceCounters struct {
	service config.Service
	totals  *probe.Totals
	rated   map[string]rated // the counters with a rate, by name
	mixed   bool             // several instances answered behind one address last
	mixing  faultlog.Log
}

// rated is the total of the newest cycle of the term that had it.
type rated struct {
	total float64
	at    time.Time
}

// newCounterKeeper keeps the totals of all targets except extra services. It sets
// Answered of every target with totals.
func newCounterKeeper(targets []probe.Target, store Store) *counterKeeper {
	k := &counterKeeper{store: store, services: map[string]*serviceCounters{}}
	for i, t := range targets {
		if t.Extra {
			continue
		}
		kept := &serviceCounters{service: t.Service, totals: probe.NewTotals(t.Service)}
		k.services[t.Name] = kept
		if slices.ContainsFunc(t.Counters, func(c config.Counter) bool { return !c.Gauge }) {
			targets[i].Answered = kept.totals.Ask
		}
	}
	return k
}

// begin starts a term if the token is a new one, and reports whether it is.
func (k *counterKeeper) begin(token lease.Token) bool {
	if k.token == token {
		return false
	}
	k.token, k.resumed = token, false
	for _, kept := range k.services {
		kept.totals.Begin()
		kept.rated = map[string]rated{}
	}
	return true
}

// resume continues the totals, once a term, from the newest values that are stored or
// buffered. Until it succeeds there are no totals.
func (k *counterKeeper) resume(ctx context.Context, queue *queue) {
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
	cycles := queue.all() // first: a cycle that is stored meanwhile is in one of the two
	values, err := k.store.NewestValues(ctx, series)
	k.reading.Observe(*zerolog.Ctx(ctx), err, "stored counters cannot be read, none are stored until they can", "stored counters can be read again")
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
	for name, kept := range k.services {
		newest := map[string]float64{}
		for _, s := range series {
			if value, ok := values[s]; ok && s.Service == name {
				newest[s.Metric] = value
			}
		}
		kept.totals.Resume(newest)
	}
	k.resumed = true
}

// append adds the samples of a service in the cycle at a time: its totals where an
// instance answered, and its gauges if every instance did; where none did, its rates, with
// 0, since the page that shows one shows the newest there is, however old: but not where
// there is no rate when it answers, or that 0 would stay. What is stored once a minute is
// added if minutely: some counters, and the gauges that are not in the platform's contract.
func (k *counterKeeper) append(ctx context.Context, samples []spool.Sample, o probe.Observation, at time.Time, minutely bool) []spool.Sample {
	kept := k.services[o.Service]
	if o.Healthy() == 0 {
		for _, counter := range kept.service.Counters {
			if counter.Rate != "" && !kept.mixed {
				samples = append(samples, sampleOf(o.Service, counter.Rate, 0))
			}
		}
		return samples
	}
	totals, mixed := kept.totals.Add(o)
	kept.mixed = len(mixed) > 0
	var fault error
	if kept.mixed {
		fault = fmt.Errorf("%s: %s", strings.Join(mixed, ", "), probe.SeveralAdvice(kept.service.Variable))
	}
	log := zerolog.Ctx(ctx).With().Str("monitored", o.Service).Logger()
	kept.mixing.Observe(log, fault, "several instances answer behind one address, the service's counters are not stored", "the service's counters are stored again")
	if fault != nil {
		return samples // also no gauge: one instance's is less than the service's
	}
	for _, counter := range kept.service.Counters {
		value, known := totals[counter.Name]
		if known && counter.Rate != "" {
			if rate, ok := kept.rate(counter.Name, value, at); ok {
				samples = append(samples, sampleOf(o.Service, counter.Rate, rate))
			}
		}
		if counter.Gauge {
			value, known = gaugeOf(o, counter)
		}
		if known && (minutely || !counter.Minutely) {
			samples = append(samples, sampleOf(o.Service, counter.Name, value))
		}
	}
	if !minutely {
		return samples
	}
	for _, name := range kept.service.Gauges {
		if value, ok := o.Counters[name]; ok {
			samples = append(samples, sampleOf(o.Service, name, value))
		}
	}
	return samples
}

// rate is by how much a total has grown a second since the newest cycle that had it: none
// in the first of a term, or where the clock has gone back. It is what the pages' charts
// make of the two points.
func (s *serviceCounters) rate(counter string, total float64, at time.Time) (rate float64, known bool) {
	before, known := s.rated[counter]
	s.rated[counter] = rated{total, at}
	seconds := at.Sub(before.at).Seconds()
	if !known || seconds <= 0 {
		return 0, false
	}
	return (total - before.total) / seconds, true
}

// gaugeOf is the sum of all instances, if all have answered.
func gaugeOf(o probe.Observation, counter config.Counter) (sum float64, known bool) {
	for _, i := range o.Instances {
		value, _ := counter.Of(i.Counters)
		sum += value
	}
	return sum, o.Status == probe.Healthy
}

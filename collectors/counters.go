package collectors

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
	"ops_worker/internal/tally"
)

// An address is asked again on connections of their own when it is first seen in a
// term, and then every so often, since a connection that is kept leads to one
// instance as long as it stands: what else is behind the address shows there.
const (
	firstAsks   = 8
	laterAsks   = 3
	askingEvery = time.Minute
	mixedBegins = "several instances answer behind one address, the service's counters are not stored"
	mixedEnds   = "the service's counters are stored again"
	newestFails = "stored counters cannot be read, none are stored until they can"
	newestWorks = "stored counters can be read again"
)

// counterKeeper makes one running total of what the instances of a service count.
type counterKeeper struct {
	services map[string]*keptCounters
	// begun and token are the term whose stored values are known.
	begun   bool
	token   lease.Token
	reading faultlog.Log
}

// keptCounters are those of one service.
type keptCounters struct {
	service config.Service
	tally   tally.Service
	mixing  faultlog.Log

	mu       sync.Mutex // of what the probes use
	asked    map[string]time.Time
	suspects []string
}

// newCounterKeeper prepares the targets for it.
func newCounterKeeper(targets []probe.Target) *counterKeeper {
	k := &counterKeeper{services: map[string]*keptCounters{}}
	for i := range targets {
		kept := &keptCounters{service: targets[i].Service, asked: map[string]time.Time{}}
		k.services[kept.service.Name] = kept
		targets[i].Answered = kept.askAgain
	}
	return k
}

// series are those of the running totals.
func (k *counterKeeper) series() (list []Series) {
	for _, kept := range k.services {
		for _, counter := range kept.service.Counters {
			if !counter.Gauge {
				list = append(list, Series{kept.service.Name, counter.Name})
			}
		}
	}
	return list
}

// begin reads, once a term, where the totals go on from: what is stored, or waits
// for that in the buffer. Without it there are no totals.
func (k *counterKeeper) begin(ctx context.Context, token lease.Token, store Store, waiting func() []spool.Cycle) {
	defer faultlog.Recovered(ctx, func(error) { k.begun = false })
	if k.begun && k.token == token {
		return
	}
	k.begun = false
	series := k.series()
	if len(series) == 0 {
		return
	}
	values, err := store.NewestValues(ctx, series)
	k.reading.Observe(*zerolog.Ctx(ctx), err, newestFails, newestWorks)
	if err != nil {
		return
	}
	for _, c := range waiting() {
		for _, s := range c.Samples {
			key := Series{s.Service, s.Metric}
			values[key] = max(values[key], s.Value)
		}
	}
	for name, kept := range k.services {
		stored := map[string]float64{}
		for _, counter := range kept.service.Counters {
			stored[counter.Name] = values[Series{name, counter.Name}]
		}
		kept.begin(stored)
	}
	k.begun, k.token = true, token
}

func (k *keptCounters) begin(stored map[string]float64) {
	k.tally.Begin(stored)
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.asked)
}

// counts reports whether a counter has a running total.
func (k *keptCounters) counts(name string) bool {
	return slices.ContainsFunc(k.service.Counters, func(c config.Counter) bool { return c.Name == name && !c.Gauge })
}

// askAgain finds out whether an address leads to several instances.
func (k *keptCounters) askAgain(ctx context.Context, i probe.InstanceReading, instances int) {
	k.mu.Lock()
	last, known := k.asked[i.Key]
	due := !known || time.Since(last) >= askingEvery
	if due {
		k.asked[i.Key] = time.Now()
	}
	k.mu.Unlock()
	times := firstAsks
	if known {
		times = laterAsks
	}
	if !due {
		return
	}
	if several, _ := i.Several(ctx, k.counts, probe.Asks(times, instances)); several {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.suspects = append(k.suspects, i.Key)
	}
}

// totals takes the readings of a cycle. There are none while it is not known whose
// they are.
func (k *keptCounters) totals(ctx context.Context, o probe.Observation) map[string]float64 {
	k.mu.Lock()
	suspects := k.suspects
	k.suspects = nil
	k.mu.Unlock()
	addresses := map[string]string{}
	var readings []tally.Reading
	for _, i := range o.Instances {
		if i.Status != probe.Healthy {
			continue
		}
		counters := make(map[string]float64, len(k.service.Counters))
		for _, counter := range k.service.Counters {
			if value, ok := i.Counters[counter.Name]; ok && !counter.Gauge {
				counters[counter.Name] = value
			}
		}
		readings = append(readings, tally.Reading{Instance: i.Key, Counters: counters})
		addresses[i.Key] = i.Address
	}
	for _, key := range suspects {
		k.tally.Suspect(key)
	}
	totals := k.tally.Add(time.Now(), readings)
	var mixed []string
	for _, key := range k.tally.Mixed() {
		mixed = append(mixed, addresses[key])
	}
	var fault error
	if len(mixed) > 0 {
		fault = fmt.Errorf("%s: %s", strings.Join(mixed, ", "), probe.SeveralAdvice(k.service.Variable))
	}
	k.mixing.Observe(zerolog.Ctx(ctx).With().Str("monitored", k.service.Name).Logger(), fault, mixedBegins, mixedEnds)
	return totals
}

// appendCounters adds the counters of a service, of which some instance has
// answered: totals, and gauges where every instance has.
func (k *counterKeeper) appendCounters(ctx context.Context, samples []spool.Sample, o probe.Observation) []spool.Sample {
	kept := k.services[o.Service]
	var totals map[string]float64
	if k.begun {
		if totals = kept.totals(ctx, o); totals == nil {
			return samples // a gauge of one of several is too little
		}
	}
	for _, counter := range kept.service.Counters {
		switch {
		case !counter.Gauge && totals != nil:
			samples = append(samples, sampleOf(o.Service, counter.Name, totals[counter.Name]))
		case counter.Gauge && o.Status == probe.Healthy:
			samples = append(samples, sampleOf(o.Service, counter.Name, o.Counters[counter.Name]))
		}
	}
	return samples
}

package collectors

import (
	"context"
	"fmt"
	"maps"
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

// An address is asked again when it is first seen in a term, and then every so often:
// what else is behind it shows there.
const (
	askingEvery = time.Minute
	maxOthers   = 64 // counters of a service besides the contract's
	mixedBegins = "several instances answer behind one address, the service's counters are not stored"
	mixedEnds   = "the service's counters are stored again"
	newestFails = "stored counters cannot be read, none are stored until they can"
	newestWorks = "stored counters can be read again"
)

// counterKeeper makes one running total of what the instances of a service count.
type counterKeeper struct {
	services map[string]*keptCounters
	begun    bool
	token    lease.Token // of the term that has begun
	reading  faultlog.Log
}

// keptCounters are those of one service.
type keptCounters struct {
	service config.Service
	// tally is of the contract's counters, and others of whatever else the service
	// reports: what falls there that should not stops no counter of the contract.
	tally, others tally.Service
	// seen are the names of the others.
	seen map[string]bool
	// known are the counters whose stored value is, in this term.
	known  map[string]bool
	mixing faultlog.Log

	mu       sync.Mutex // of what the probes use
	asked    map[string]time.Time
	suspects []string
}

// newCounterKeeper prepares the targets for it. Extra services have no totals.
func newCounterKeeper(targets []probe.Target) *counterKeeper {
	k := &counterKeeper{services: map[string]*keptCounters{}}
	for i := range targets {
		if targets[i].AllCounters {
			continue
		}
		kept := &keptCounters{service: targets[i].Service, seen: map[string]bool{}, known: map[string]bool{}, asked: map[string]time.Time{}}
		k.services[kept.service.Name] = kept
		targets[i].Answered = kept.askAgain
	}
	return k
}

// begin starts a term, where the token is another's, and reports whether it is.
func (k *counterKeeper) begin(token lease.Token) bool {
	if k.begun && k.token == token {
		return false
	}
	k.begun, k.token = true, token
	for _, kept := range k.services {
		kept.begin()
	}
	return true
}

// resume finds out where the totals go on from that it is not known of yet: what is
// stored, or waits for that in the buffer. Without it there are none.
func (k *counterKeeper) resume(ctx context.Context, store Store, waiting func() []spool.Cycle) {
	defer faultlog.Recovered(ctx, func(error) {})
	var series []Series
	for _, kept := range k.services {
		for _, name := range kept.unknown() {
			series = append(series, kept.series(name))
		}
	}
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
	for _, kept := range k.services {
		kept.resume(values)
	}
}

func (k *keptCounters) begin() {
	k.tally.Begin(nil)
	k.others.Begin(nil)
	clear(k.known)
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.asked)
}

// unknown are the counters whose stored value is not known.
func (k *keptCounters) unknown() (names []string) {
	for _, counter := range k.service.Counters {
		if !counter.Gauge && !k.known[counter.Name] {
			names = append(names, counter.Name)
		}
	}
	for name := range k.seen {
		if !k.known[name] {
			names = append(names, name)
		}
	}
	return names
}

// series is the one that a counter is stored as.
func (k *keptCounters) series(name string) Series {
	return Series{k.service.Name, sampleName(k.service.Name, name)}
}

// resume takes the stored values of what is unknown.
func (k *keptCounters) resume(values map[Series]float64) {
	stored := map[string]float64{}
	for _, name := range k.unknown() {
		stored[name] = values[k.series(name)]
		k.known[name] = true
	}
	k.tally.Resume(stored)
	k.others.Resume(stored)
}

// isOther reports whether a number is none of the contract's, and may have a
// series.
func (k *keptCounters) isOther(name string, instances int) bool {
	stored := sampleName(k.service.Name, name)
	return !slices.ContainsFunc(k.service.Counters, func(c config.Counter) bool { return c.Name == name || c.Name == stored }) &&
		!ownSample(name, instances)
}

// askAgain finds out whether an address leads to several instances.
func (k *keptCounters) askAgain(ctx context.Context, i probe.InstanceReading) {
	k.mu.Lock()
	last, known := k.asked[i.Key]
	due := !known || time.Since(last) >= askingEvery
	if due {
		k.asked[i.Key] = time.Now()
	}
	k.mu.Unlock()
	if due && i.Several(ctx, k.service.Totals) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.suspects = append(k.suspects, i.Key)
	}
}

// take tallies the readings of a cycle. Without totals it is not known whose the
// readings are; those of others are without them where only that is so of them.
func (k *keptCounters) take(ctx context.Context, o probe.Observation) (totals, others map[string]float64) {
	k.mu.Lock()
	suspects := k.suspects
	k.suspects = nil
	k.mu.Unlock()
	addresses := map[string]string{}
	var readings, otherReadings []tally.Reading
	for _, i := range o.Instances {
		if i.Status != probe.Healthy {
			continue
		}
		own, other := map[string]float64{}, map[string]float64{}
		for name, value := range i.Counters {
			switch {
			case k.service.Totals(name):
				if k.known[name] {
					own[name] = value
				}
			case k.isOther(name, len(o.Instances)) && !slices.Contains(k.service.Gauges, name):
				if k.known[name] {
					other[name] = value
				} else if len(k.seen) < maxOthers {
					k.seen[name] = true
				}
			}
		}
		readings = append(readings, tally.Reading{Instance: i.Key, Counters: own})
		otherReadings = append(otherReadings, tally.Reading{Instance: i.Key, Counters: other})
		addresses[i.Key] = i.Address
	}
	for _, key := range suspects {
		k.tally.Suspect(key)
	}
	now := time.Now()
	totals, others = k.tally.Add(now, readings), k.others.Add(now, otherReadings)
	maps.DeleteFunc(others, func(name string, _ float64) bool { // none reports it any more
		return !slices.ContainsFunc(otherReadings, func(r tally.Reading) bool { _, ok := r.Counters[name]; return ok })
	})
	var mixed []string
	for _, key := range k.tally.Mixed() {
		mixed = append(mixed, addresses[key])
	}
	var fault error
	if len(mixed) > 0 {
		fault = fmt.Errorf("%s: %s", strings.Join(mixed, ", "), probe.SeveralAdvice(k.service.Variable))
	}
	k.mixing.Observe(zerolog.Ctx(ctx).With().Str("monitored", k.service.Name).Logger(), fault, mixedBegins, mixedEnds)
	return totals, others
}

// append adds the counters of a service, of which some instance has answered:
// totals, and gauges where every instance has.
func (k *counterKeeper) append(ctx context.Context, samples []spool.Sample, o probe.Observation, withOthers bool) []spool.Sample {
	kept := k.services[o.Service]
	totals, others := kept.take(ctx, o)
	if totals == nil {
		return samples // a gauge of one of several is too little
	}
	for _, counter := range kept.service.Counters {
		switch {
		case !counter.Gauge && kept.known[counter.Name]:
			samples = append(samples, sampleOf(o.Service, counter.Name, totals[counter.Name]))
		case counter.Gauge && o.Status == probe.Healthy:
			sum := 0.0
			for _, i := range o.Instances {
				value, _ := counter.Of(i.Counters)
				sum += value
			}
			samples = append(samples, sampleOf(o.Service, counter.Name, sum))
		}
	}
	if !withOthers {
		return samples
	}
	for _, name := range slices.Sorted(maps.Keys(kept.seen)) {
		if value, ok := others[name]; ok {
			samples = append(samples, sampleOf(o.Service, kept.series(name).Metric, value))
		}
	}
	for _, name := range kept.service.Gauges {
		if value, ok := o.Counters[name]; ok {
			samples = append(samples, sampleOf(o.Service, kept.series(name).Metric, value))
		}
	}
	return samples
}

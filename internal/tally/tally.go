// Package tally makes one counter of many. Every instance of a service keeps
// counters of its own, from zero at its start; what is stored is a running total,
// which never falls and never jumps: whoever takes the difference of two points
// sees what was counted between them.
package tally

import (
	"maps"
	"slices"
	"time"
)

const (
	// restartFactor is how many times faster than ever before an instance may have
	// counted since a restart, and still be taken for one that has restarted.
	restartFactor = 3
	// A restart that is not plausible is one after so many readings without another
	// fall; so many falls among so many readings are none at all, but several
	// instances behind one address; and those are one again after so many readings
	// without a fall.
	probation   = 12
	manyFalls   = 3
	fallsWithin = 20
	quarantine  = 60
	// goneFor is how long an instance that is gone is remembered: when it comes back
	// it has gone on counting. maxGone bounds how many are.
	goneFor = time.Hour
	maxGone = 1024
)

// Reading is what one instance answered.
type Reading struct {
	Instance string // its address
	Counters map[string]float64
}

// Service is the tally of one service's counters, for one term of a leader. The
// zero value has seen nothing.
type Service struct {
	totals    map[string]float64
	begun     map[string]bool // the counters that this term has had
	instances map[string]*instance
	mixed     bool
}

// Begin starts a term: the counters go on from what is stored, or from what their
// instances say first, whichever is larger. What this process had before counts as
// stored, since some of it may still wait to be.
func (s *Service) Begin(stored map[string]float64) {
	before := s.totals
	*s = Service{totals: map[string]float64{}, instances: map[string]*instance{}}
	for _, known := range []map[string]float64{before, stored} {
		for name, value := range known {
			s.totals[name] = max(s.totals[name], value)
		}
	}
	s.begun = map[string]bool{}
}

// Add takes the readings of a cycle, of the instances that answered, and returns
// the totals; none while several instances answer behind one address, since their
// counters cannot be told apart.
func (s *Service) Add(at time.Time, readings []Reading) (totals map[string]float64) {
	if s.instances == nil {
		s.Begin(nil)
	}
	first := map[string]float64{} // of counters that no cycle had before
	s.mixed = false
	for _, r := range readings {
		i := s.instances[r.Instance]
		if i == nil {
			i = &instance{readings: map[string]float64{}, fastest: map[string]float64{}}
			s.instances[r.Instance] = i
		}
		for name, increase := range i.take(at, r.Counters) {
			if s.begun[name] {
				s.totals[name] += increase
			}
		}
		for name, value := range r.Counters {
			if !s.begun[name] {
				first[name] += value
			}
		}
		s.mixed = s.mixed || i.held > 0
	}
	for name, sum := range first {
		s.begun[name] = true
		s.totals[name] = max(s.totals[name], sum)
	}
	s.forget(at)
	if s.mixed || len(readings) == 0 {
		return nil
	}
	return maps.Clone(s.totals)
}

// Suspect says that several instances answer at an address, whatever its readings
// look like.
func (s *Service) Suspect(address string) {
	if i := s.instances[address]; i != nil {
		i.hold(quarantine)
		i.strange, s.mixed = true, true
	}
}

// Mixed reports whether the newest cycle had no totals for what came from one
// address.
func (s *Service) Mixed() bool { return s.mixed }

// forget drops what is gone for long, and the longest gone of too many.
func (s *Service) forget(now time.Time) {
	maps.DeleteFunc(s.instances, func(_ string, i *instance) bool { return now.Sub(i.at) > goneFor })
	if len(s.instances) <= maxGone {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(s.instances), func(a, b string) int { return s.instances[a].at.Compare(s.instances[b].at) })
	for _, address := range oldest[:len(oldest)-maxGone] {
		delete(s.instances, address)
	}
}

// instance is what one address has told.
type instance struct {
	at       time.Time // of its newest reading
	readings map[string]float64
	// fastest is the most that each counter has grown a second.
	fastest map[string]float64

	number int   // of readings
	falls  []int // the numbers of those that fell, newest last
	// held counts down the readings until its counters are trusted again, and
	// pending is what they have counted meanwhile.
	held    int
	pending map[string]float64
	strange bool // more than one fall while it was held
}

// take notes a reading and returns what was counted since the one before.
func (i *instance) take(at time.Time, counters map[string]float64) (increases map[string]float64) {
	i.number++
	elapsed := at.Sub(i.at).Seconds()
	increases = map[string]float64{}
	fell, plausible := false, true
	for name, value := range counters {
		before, known := i.readings[name]
		i.readings[name] = value
		switch {
		case !known:
		case value >= before:
			increases[name] = value - before
		default: // it began again from zero
			fell = true
			plausible = plausible && value <= restartFactor*i.fastest[name]*elapsed
			increases[name] = value
		}
	}
	i.at = at
	if fell {
		i.fall(plausible)
	}
	if i.held == 0 {
		if !fell && elapsed > 0 {
			for name, increase := range increases {
				i.fastest[name] = max(i.fastest[name], increase/elapsed)
			}
		}
		return increases
	}
	for name, increase := range increases {
		i.pending[name] += increase
	}
	if i.held--; i.held > 0 {
		return nil
	}
	increases, i.pending = i.pending, nil
	if i.strange {
		i.strange, i.falls = false, nil
		return nil // it is not known what of it was counted twice
	}
	return increases
}

// fall judges a reading that is below the one before.
func (i *instance) fall(plausible bool) {
	i.falls = append(slices.DeleteFunc(i.falls, func(n int) bool { return i.number-n > fallsWithin }), i.number)
	switch {
	case i.held > 0 || len(i.falls) >= manyFalls:
		i.hold(quarantine)
		i.strange = true
	case !plausible:
		i.hold(probation)
	}
}

func (i *instance) hold(readings int) {
	i.held = readings
	if i.pending == nil {
		i.pending = map[string]float64{}
	}
}

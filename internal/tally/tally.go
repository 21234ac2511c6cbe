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
	// An instance that began again from zero has counted at most restartFactor times
	// faster since than any of its service ever has; one that has gone on, at most
	// burstFactor times faster, or leastBurst a second.
	restartFactor = 3
	burstFactor   = 10
	leastBurst    = 20_000
	// What is not so is believed after so many readings in which nothing of that kind
	// happens again. Where it does, several instances answer behind the address; they
	// are one again after a quarantine of so many.
	probation  = 12
	quarantine = 60
	// A counter that falls and, within soon readings, is where it was before, has not
	// begun again; a small one may by chance, so that it takes manyReturns among
	// readings that are recent.
	soon        = 3
	recent      = 20
	manyReturns = 3
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
	// fastest is the most that each counter of any instance has grown a second.
	fastest map[string]float64
	mixed   bool
}

// Begin starts a term: the counters go on from what is stored, or from what their
// instances say first, whichever is larger. What this process had before counts as
// stored, since some of it may still wait to be.
func (s *Service) Begin(stored map[string]float64) {
	before, fastest := s.totals, s.fastest
	if fastest == nil {
		fastest = map[string]float64{}
	}
	*s = Service{totals: map[string]float64{}, begun: map[string]bool{}, instances: map[string]*instance{}, fastest: fastest}
	s.Resume(before)
	s.Resume(stored)
}

// Resume is Begin for counters that the term has not had so far.
func (s *Service) Resume(stored map[string]float64) {
	for name, value := range stored {
		if !s.begun[name] {
			s.totals[name] = max(s.totals[name], value)
		}
	}
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
		i := s.at(r.Instance)
		for name, increase := range i.take(at, r.Counters, s.fastest) {
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
	s.forget(at)
	if s.mixed || len(readings) == 0 {
		return nil
	}
	for name, sum := range first {
		s.begun[name] = true
		s.totals[name] = max(s.totals[name], sum)
	}
	return maps.Clone(s.totals)
}

// at is what is known of an address.
func (s *Service) at(address string) *instance {
	i := s.instances[address]
	if i == nil {
		i = &instance{readings: map[string]float64{}, fallen: map[string]fall{}}
		s.instances[address] = i
	}
	return i
}

// Suspect says, before the cycle is added, that several instances answer at an
// address, whatever its readings look like.
func (s *Service) Suspect(address string) {
	if s.instances == nil {
		s.Begin(nil)
	}
	s.at(address).strange()
}

// Mixed are the addresses that are known to lead to several instances, for which
// the newest cycle had no totals.
func (s *Service) Mixed() (addresses []string) {
	if !s.mixed {
		return nil
	}
	for address, i := range s.instances {
		if i.held > 0 && i.several {
			addresses = append(addresses, address)
		}
	}
	slices.Sort(addresses)
	return addresses
}

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

	number int // of readings
	fallen map[string]fall
	// returns are the numbers of the readings that were where a counter had fallen
	// from, newest last.
	returns []int
	// held counts down the readings until its counters are trusted again, and
	// pending is what they have counted meanwhile.
	held    int
	pending map[string]float64
	// several is that what was held is known to be of several instances.
	several bool
}

// verdict is whether a reading may be the same instance's as the one before.
type verdict int

const (
	plausible verdict = iota
	doubtful
	impossible
)

// fall is the newest of a counter: at which reading, and from where.
type fall struct {
	number int
	from   float64
}

// take notes a reading and returns what was counted since the one before. Fastest
// is of the whole service.
func (i *instance) take(at time.Time, counters, fastest map[string]float64) (increases map[string]float64) {
	i.number++
	elapsed := at.Sub(i.at).Seconds()
	increases = map[string]float64{}
	fell, judged := false, plausible
	for name, value := range counters {
		before, known := i.readings[name]
		i.readings[name] = value
		switch {
		case !known:
		case value >= before:
			increases[name] = value - before
			judged = max(judged, i.judgeRise(name, value, increases[name]/elapsed, fastest[name]))
		default: // it began again from zero
			fell = true
			i.fallen[name] = fall{i.number, before}
			increases[name] = value
			if value > restartFactor*fastest[name]*elapsed {
				judged = max(judged, doubtful)
			}
		}
	}
	i.at = at
	switch {
	case judged == impossible || judged == doubtful && i.held > 0:
		i.strange()
	case judged == doubtful:
		i.hold(probation)
	}
	if i.held == 0 {
		if !fell && elapsed > 0 {
			for name, increase := range increases {
				fastest[name] = max(fastest[name], increase/elapsed)
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
	if i.several {
		i.several, i.returns = false, nil
		return nil // it is not known what of it was counted twice
	}
	return increases
}

// judgeRise looks whether a counter that has grown at this rate may be the same.
func (i *instance) judgeRise(name string, value, rate, fastest float64) verdict {
	fell, known := i.fallen[name]
	ago := i.number - fell.number
	returned := known && ago <= recent && value >= fell.from
	if returned {
		delete(i.fallen, name)
	}
	switch {
	case returned && rate > restartFactor*fastest:
		return impossible
	case returned && ago <= soon:
		i.returns = append(slices.DeleteFunc(i.returns, func(n int) bool { return i.number-n > recent }), i.number)
		if len(i.returns) >= manyReturns {
			return impossible
		}
	case rate > max(burstFactor*fastest, leastBurst):
		return doubtful
	}
	return plausible
}

// strange holds what is of several instances.
func (i *instance) strange() {
	i.hold(quarantine)
	i.several = true
}

func (i *instance) hold(readings int) {
	i.held = readings
	if i.pending == nil {
		i.pending = map[string]float64{}
	}
}

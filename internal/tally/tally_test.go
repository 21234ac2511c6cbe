package tally

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var seeds = flag.Int("seeds", 300, "how many worlds the property test makes")

const interval = 5 * time.Second

// add is a cycle of one counter.
func add(s *Service, cycle int, readings map[string]float64) (total float64, ok bool) {
	list := make([]Reading, 0, len(readings))
	for address, value := range readings {
		list = append(list, Reading{address, map[string]float64{"n": value}})
	}
	totals := s.Add(time.Unix(0, 0).Add(time.Duration(cycle)*interval), list)
	total, ok = totals["n"]
	return total, ok
}

// series runs cycles, each a reading by address, and compares the totals; -1 is
// none.
func series(t *testing.T, s *Service, cycles []map[string]float64, want []float64) {
	t.Helper()
	for n, readings := range cycles {
		got, ok := add(s, n, readings)
		if !ok {
			got = -1
		}
		if got != want[n] {
			t.Errorf("cycle %d, %v: total %g, want %g", n, readings, got, want[n])
		}
	}
}

type cycle = map[string]float64

func TestOneInstanceIsWhatItSays(t *testing.T) {
	t.Parallel()
	series(t, new(Service), []cycle{{"a": 7}, {"a": 7}, {"a": 100}, {}, {"a": 250}}, []float64{7, 7, 100, -1, 250})
}

func TestTheTotalOfMany(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		stored float64
		cycles []cycle
		want   []float64
	}{
		"two":                        {0, []cycle{{"a": 5_000_000, "b": 20_000}, {"a": 5_000_500, "b": 20_500}}, []float64{5_020_000, 5_021_000}},
		"one is silent, and back":    {0, []cycle{{"a": 100, "b": 100}, {"a": 110}, {"a": 120, "b": 130}}, []float64{200, 210, 250}},
		"one is new":                 {0, []cycle{{"a": 100}, {"a": 110, "b": 70}, {"a": 120, "b": 75}}, []float64{100, 110, 125}},
		"one restarts":               {0, []cycle{{"a": 100, "b": 100}, {"a": 110, "b": 110}, {"a": 120, "b": 4}, {"a": 130, "b": 14}}, []float64{200, 220, 234, 254}},
		"a term that goes on":        {1000, []cycle{{"a": 1100}, {"a": 1150}}, []float64{1100, 1150}},
		"a term after restarts":      {1000, []cycle{{"a": 30}, {"a": 45}}, []float64{1000, 1015}},
		"nothing answers at first":   {1000, []cycle{{}, {"a": 45}, {"a": 50}}, []float64{-1, 1000, 1005}},
		"a burst is believed later":  {0, append([]cycle{{"a": 0}, {"a": 500}, {"a": 1_000_500}}, slices.Repeat([]cycle{{"a": 1_000_500}}, 13)...), append([]float64{0, 500}, append(slices.Repeat([]float64{-1}, 11), slices.Repeat([]float64{1_000_500}, 3)...)...)},
		"an unlikely restart, too":   {0, append([]cycle{{"a": 70}}, slices.Repeat([]cycle{{"a": 10}}, 13)...), append(append([]float64{70}, slices.Repeat([]float64{-1}, 11)...), 80, 80)},
		"a counter that comes later": {0, []cycle{{}, {"a": 45}}, []float64{-1, 45}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s Service
			s.Begin(map[string]float64{"n": test.stored})
			series(t, &s, test.cycles, test.want)
		})
	}
}

// Whatever this process has told before counts, since it may not be stored yet.
func TestANewTermGoesOnFromWhatWaits(t *testing.T) {
	t.Parallel()
	var s Service
	series(t, &s, []cycle{{"a": 100}, {"a": 900}}, []float64{100, 900})
	s.Begin(map[string]float64{"n": 100})
	series(t, &s, []cycle{{"a": 20}, {"a": 25}}, []float64{900, 905})
}

// Two instances behind one address, in turn or at random: their counters stop at
// the first fall, and come back when the address leads to one of them for good.
func TestSeveralInstancesBehindOneAddress(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		var s Service
		counted := []float64{5_000_000, 20_000}
		var last, before float64
		stopped := 0
		for n := range 400 {
			counted[0], counted[1] = counted[0]+500, counted[1]+500
			which := n % 2
			if seed > 0 {
				which = random.IntN(2)
			}
			if n > 250 {
				which = 1
			}
			total, ok := add(&s, n, cycle{"a": counted[which]})
			if n == 0 && seed == 0 {
				before = total
			}
			switch {
			case !ok:
				stopped++
			case total < last:
				t.Fatalf("seed %d, cycle %d: the total falls from %g to %g", seed, n, last, total)
			default:
				last = total
			}
			if n > 350 && !ok {
				t.Fatalf("seed %d, cycle %d: it has not come back", seed, n)
			}
		}
		if stopped < 200 {
			t.Errorf("seed %d: without a total for %d cycles only", seed, stopped)
		}
		if seed == 0 && last > before+400*1000 {
			t.Errorf("in turn: the total has grown by %g", last-before)
		}
	}
}

// After a burst as fast as what two instances differ by, each step of theirs could
// be one of a restart; all of them cannot.
func TestAMixThatMightBeRestarts(t *testing.T) {
	t.Parallel()
	var s Service
	readings := []float64{0, 100_000, 20_000, 100_500, 20_500, 101_000, 21_000}
	for n, value := range readings {
		if _, ok := add(&s, n, cycle{"a": value}); !ok {
			t.Fatalf("cycle %d: no total yet", n)
		}
	}
	for n := len(readings); n < 100; n += 2 {
		if total, ok := add(&s, n, cycle{"a": 101_000 + float64(n)}); ok {
			t.Fatalf("cycle %d: %g", n, total)
		}
		if total, ok := add(&s, n+1, cycle{"a": 21_000 + float64(n)}); ok {
			t.Fatalf("cycle %d: %g", n+1, total)
		}
	}
}

// A process that crashes again and again has restarted, however often.
func TestACrashLoopIsNoMix(t *testing.T) {
	t.Parallel()
	var s Service
	var n int
	total, value := 0.0, 0.0
	for lives := range 40 {
		for range 3 + lives%5 {
			value += 500
			total += 500
			if got, ok := add(&s, n, cycle{"a": value}); n > 0 && (!ok || got != total) {
				t.Fatalf("cycle %d: %g, %t; %g was counted", n, got, ok, total)
			}
			n++
		}
		value = 0
	}
}

// One address of several is told before its first reading counts.
func TestASuspectCountsNothing(t *testing.T) {
	t.Parallel()
	var s Service
	s.Begin(map[string]float64{"n": 7})
	s.Suspect("a")
	for n := range quarantine - 1 {
		if total, ok := add(&s, n, cycle{"a": 5_000_000, "b": 1}); ok {
			t.Fatalf("cycle %d: %g", n, total)
		}
		if mixed := s.Mixed(); !slices.Equal(mixed, []string{"a"}) {
			t.Fatalf("cycle %d: mixed are %s", n, mixed)
		}
	}
	if total, ok := add(&s, quarantine, cycle{"b": 3}); !ok || total != 7 || s.Mixed() != nil {
		t.Errorf("without it: %g, %t, %s", total, ok, s.Mixed())
	}
}

// Several counters that fall at once are one restart.
func TestARestartOfSeveralCounters(t *testing.T) {
	t.Parallel()
	var s Service
	at := time.Unix(0, 0)
	for n := range 20 {
		counters := map[string]float64{"n": 10, "m": 10}
		if n == 0 {
			counters = map[string]float64{"n": 100, "m": 100}
		}
		at = at.Add(interval)
		totals := s.Add(at, []Reading{{"a", counters}})
		if n > probation && (totals["n"] != 110 || totals["m"] != 110) {
			t.Fatalf("cycle %d: %v", n, totals)
		}
	}
}

// world is a service that instances come to, go from, restart in, hang in and
// reuse addresses of; every one counts from zero at its start.
type world struct {
	random    *rand.Rand
	instances map[string]*simulated
	counted   float64 // by all that ever were
	next      int
}

type simulated struct {
	value, rate float64
	hangs       int
}

func (w *world) turn() (readings cycle) {
	if w.random.IntN(8) == 0 || len(w.instances) == 0 {
		w.next++
		w.instances[fmt.Sprintf("10.0.0.%d", w.random.IntN(12))] = &simulated{rate: 1 + 1000*w.random.Float64()}
	}
	readings = cycle{}
	for address, i := range w.instances {
		switch r := w.random.IntN(400); {
		case r < 10:
			delete(w.instances, address)
			continue
		case r < 12:
			i.value = 0
		case r < 20:
			i.hangs = w.random.IntN(20)
		}
		grown := float64(int(i.rate * interval.Seconds() * w.random.Float64()))
		i.value += grown
		w.counted += grown
		if i.hangs > 0 {
			i.hangs--
			continue
		}
		readings[address] = i.value
	}
	return readings
}

// reference is the running total as it is promised, where nothing is doubted: what
// is stored, or the first sum, and from there every increase.
type reference struct {
	total float64
	last  map[string]float64
}

func (r *reference) add(readings cycle) float64 {
	sum := 0.0
	for address, value := range readings {
		sum += value
		switch before, known := r.last[address]; {
		case !known:
		case value < before:
			r.total += value
		default:
			r.total += value - before
		}
	}
	if len(r.last) == 0 {
		r.total = max(r.total, sum)
	}
	maps.Copy(r.last, readings)
	return r.total
}

// Within a term the total never falls, and never grows by more than was counted;
// over all terms it is never more than was ever counted. Nothing is lost but the
// first reading of an instance, and what is counted between two terms: until a
// reading is doubted it is the reference's, and the worlds' are few.
func TestTheTotalIsWhatWasCounted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(*seeds) {
		w := &world{random: rand.New(rand.NewPCG(seed, 2)), instances: map[string]*simulated{}}
		var s Service
		stored, newest := 0.0, 0.0
		begun, countedThen, last := false, 0.0, 0.0
		absent, doubted := 0, false
		model := reference{last: map[string]float64{}}
		for n := range 600 {
			if w.random.IntN(100) == 0 { // another leader, or this one again
				if w.random.IntN(2) == 0 {
					s = Service{}
					newest = stored
				}
				s.Begin(map[string]float64{"n": stored})
				begun, doubted = false, false
				model = reference{s.totals["n"], map[string]float64{}} // it may know more than it has told
			}
			readings := w.turn()
			want := model.add(readings)
			total, ok := add(&s, n, readings)
			if doubted = doubted || !ok && len(readings) > 0; !ok {
				absent++
				continue
			}
			if !doubted && total != want {
				t.Fatalf("seed %d, cycle %d: the total is %g, want %g", seed, n, total, want)
			}
			if total < newest {
				t.Fatalf("seed %d, cycle %d: the total falls from %g to %g", seed, n, newest, total)
			}
			if total > w.counted {
				t.Fatalf("seed %d, cycle %d: the total is %g, and %g was ever counted", seed, n, total, w.counted)
			}
			if begun && total-last > w.counted-countedThen {
				t.Fatalf("seed %d, cycle %d: the total has grown by %g since the term began, and %g was counted", seed, n, total-last, w.counted-countedThen)
			}
			if !begun {
				begun, last, countedThen = true, total, w.counted
			}
			newest = total
			if w.random.IntN(3) > 0 { // or the database is away
				stored = total
			}
		}
		if absent > 150 {
			t.Errorf("seed %d: no total in %d of 600 cycles", seed, absent)
		}
	}
}

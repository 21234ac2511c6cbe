package probe

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ops_worker/internal/config"
)

var trials = flag.Int("trials", 300, "how many worlds of each kind the property test makes")

const cycleInterval = 5 * time.Second

var counting = config.Service{Name: "s", Variable: "S_URL", Counters: []config.Counter{{Name: "n"}, {Name: "depth", Gauge: true}}}

// said is the reading of an instance at an address; again are what it says when it is
// asked again, in turn, or the same for ever.
func said(address string, value float64, again ...float64) InstanceReading {
	reading := func(value float64) Reading {
		return Reading{Status: Healthy, Counters: map[string]float64{"n": value, "depth": -value, "other": -value}}
	}
	asks := 0
	return InstanceReading{Address: address, Key: address, Reading: reading(value), Again: func(context.Context) Reading {
		if len(again) == 0 {
			return reading(value)
		}
		asks++
		return reading(again[(asks-1)%len(again)])
	}}
}

var silent = InstanceReading{Address: "silent", Key: "silent", Reading: Reading{Status: Down}}

// turn is a cycle of these readings, and its total, -1 where there is none.
func turn(t *Totals, instances ...InstanceReading) float64 {
	for _, i := range instances {
		if i.Status == Healthy {
			t.Ask(context.Background(), i)
		}
	}
	totals, _ := t.Add(merge("s", instances))
	if total, ok := totals["n"]; ok {
		return total
	}
	return -1
}

// begun are totals in a term that goes on from what is stored, if anything is.
func begun(stored ...float64) *Totals {
	t := NewTotals(counting)
	t.Begin()
	values := map[string]float64{}
	for _, v := range stored {
		values["n"] = v
	}
	t.Resume(values)
	return t
}

func TestRunningTotals(t *testing.T) {
	t.Parallel()
	type cycle = []InstanceReading
	a, b, c := func(v float64) InstanceReading { return said("a", v) }, func(v float64) InstanceReading { return said("b", v) }, func(v float64) InstanceReading { return said("c", v) }
	for name, test := range map[string]struct {
		stored []float64
		cycles []cycle
		want   []float64
	}{
		"one":                             {nil, []cycle{{a(7)}, {a(7)}, {a(100)}, {silent}, {a(250)}}, []float64{7, 7, 100, -1, 250}},
		"one restarts":                    {nil, []cycle{{a(100)}, {a(4)}, {a(14)}}, []float64{100, 104, 114}},
		"one is elsewhere":                {nil, []cycle{{a(100)}, {b(40)}, {b(45)}}, []float64{100, 100, 105}},
		"two":                             {nil, []cycle{{a(5_000_000), b(20_000)}, {a(5_000_500), b(20_500)}}, []float64{5_020_000, 5_021_000}},
		"one of two restarts":             {nil, []cycle{{a(100), b(100)}, {a(110), b(4)}, {a(120), b(14)}}, []float64{200, 214, 234}},
		"one is new":                      {nil, []cycle{{a(100)}, {a(110), c(70)}, {a(120), c(75)}}, []float64{100, 110, 125}},
		"one is silent for a cycle":       {nil, []cycle{{a(100), b(100)}, {a(110), silent}, {a(120), b(130)}}, []float64{200, 210, 250}},
		"one is silent for longer":        {nil, []cycle{{a(100), b(100)}, {a(110), silent}, {a(110), silent}, {a(120), b(150)}, {a(120), b(151)}}, []float64{200, 210, 210, 220, 221}},
		"one is gone":                     {nil, []cycle{{a(100), b(100)}, {a(110)}, {a(120)}}, []float64{200, 210, 220}},
		"all are silent for long":         {nil, []cycle{{a(100), b(100)}, {silent}, {silent}, {silent}, {a(120), b(130)}}, []float64{200, -1, -1, -1, 250}},
		"a term of one goes on":           {[]float64{1000}, []cycle{{a(1100)}, {a(1150)}}, []float64{1100, 1150}},
		"a term of one after restarts":    {[]float64{1000}, []cycle{{a(30)}, {a(45)}}, []float64{1000, 1015}},
		"a term that begins in silence":   {[]float64{1000}, []cycle{{silent}, {a(45)}, {a(50)}}, []float64{-1, 1000, 1005}},
		"a term of two goes on":           {[]float64{1000}, []cycle{{a(5_000_000), b(20_000)}, {a(5_000_500), b(20_500)}}, []float64{1000, 2000}},
		"a term of two, of which one is":  {[]float64{1000}, []cycle{{a(5_000_000), silent}, {a(5_000_500), b(20_500)}}, []float64{1000, 1500}},
		"a term of one that becomes more": {[]float64{1000}, []cycle{{a(30)}, {a(40), b(5_000_000)}, {a(50), b(5_000_001)}, {b(5_000_002)}}, []float64{1000, 1010, 1021, 1022}},
		"what is stored is no number":     {[]float64{math.NaN()}, []cycle{{a(30)}, {a(40)}}, []float64{30, 40}},
		"what is stored has no end":       {[]float64{math.Inf(1)}, []cycle{{a(30), b(1)}, {a(40), b(1)}}, []float64{31, 41}},
		"nor a beginning":                 {[]float64{math.Inf(-1)}, []cycle{{a(30)}, {a(40)}}, []float64{30, 40}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			totals := begun(test.stored...)
			var got []float64
			for _, readings := range test.cycles {
				got = append(got, turn(totals, readings...))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestThereAreNoTotalsBeforeWhatIsStoredIsKnown(t *testing.T) {
	t.Parallel()
	totals := NewTotals(counting)
	totals.Begin()
	if got := turn(totals, said("a", 7)); got != -1 {
		t.Errorf("%g", got)
	}
	totals.Resume(map[string]float64{"n": 3})
	for _, want := range []float64{9, 10} {
		if got := turn(totals, said("a", want)); got != want {
			t.Errorf("%g, want %g", got, want)
		}
	}
}

// Two behind one address fall in one burst and in the next. Their counters are absent
// then, until five bursts a minute apart show one instance.
func TestTwoBehindOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		totals := begun(1000)
		for n := range 3 {
			if got := turn(totals, said("a", 5_000_000, 20_000, 5_000_000), said("b", 7)); got != -1 {
				t.Fatalf("cycle %d: %g", n, got)
			}
		}
		_, mixed := totals.Add(merge("s", []InstanceReading{said("b", 7), said("a", 1)}))
		if !slices.Equal(mixed, []string{"a"}) {
			t.Errorf("mixed: %s", mixed)
		}
		pass(askingEvery)
		turn(totals, said("a", 5, 5, 5, 3), said("b", 7)) // once more, so that it is not yet clean
		for n := range cleanBursts {
			if got := turn(totals, said("a", 20_000+float64(n)), said("b", 7)); got != -1 {
				t.Fatalf("before burst %d: %g", n, got)
			}
			pass(askingEvery)
			if got := turn(totals, said("a", 20_000+float64(n)), said("b", 7)); n < cleanBursts-1 && got != -1 {
				t.Fatalf("at burst %d: %g", n, got)
			} else if n == cleanBursts-1 && got != 1000 {
				t.Fatalf("at the last burst: %g", got)
			}
		}
		if got := turn(totals, said("a", 20_010), said("b", 7)); got != 1006 {
			t.Errorf("then: %g", got)
		}
	})
}

// What each kind of evidence does to the counters of one address.
func TestOnlyAskingAgainDecides(t *testing.T) {
	t.Parallel()
	well, fell := burst{asks: burstAsks}, burst{asks: 3, fell: true}
	last := map[string]float64{}
	for name, test := range map[string]struct {
		before counted
		bursts []burst
		want   counted
	}{
		"nothing fell":           {counted{last: last}, []burst{well}, counted{last: last}},
		"a restart":              {counted{last: last}, []burst{well, well}, counted{last: last}},
		"a mix":                  {counted{last: last}, []burst{fell, fell}, counted{last: last, several: true}},
		"a fall in the first":    {counted{last: last}, []burst{fell, well}, counted{doubt: true}},
		"a fall in the second":   {counted{last: last}, []burst{well, fell}, counted{doubt: true}},
		"a doubt that is over":   {counted{last: last, doubt: true}, []burst{well, well}, counted{}},
		"a doubt that is a mix":  {counted{last: last, doubt: true}, []burst{fell, fell}, counted{last: last, several: true}},
		"a mix that may be over": {counted{several: true, clean: 1}, []burst{well}, counted{several: true, clean: 2}},
		"a mix that is not":      {counted{several: true, clean: 4}, []burst{fell}, counted{several: true}},
		"a mix that is over":     {counted{last: last, several: true, clean: 4}, []burst{well}, counted{clean: 5}},
	} {
		got := test.before
		got.judge(test.bursts)
		if got.several != test.want.several || got.doubt != test.want.doubt || got.clean != test.want.clean || (got.last == nil) != (test.want.last == nil) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// When an address is asked in bursts, and how often.
func TestWhenAnAddressIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		totals := begun()
		asks := 0
		cycle := func(value float64) int {
			asks = 0
			i := said("a", value)
			again := i.Again
			i.Again = func(ctx context.Context) Reading { asks++; return again(ctx) }
			turn(totals, i)
			pass(cycleInterval)
			return asks
		}
		var got []int
		for n := range 26 {
			got = append(got, cycle(float64(100+n)))
		}
		got = append(got, cycle(3), cycle(4))
		totals.Begin()
		got = append(got, cycle(5), cycle(6))
		want := make([]int, 30)
		want[0], want[12], want[24], want[26], want[28] = 16, 8, 8, 16, 16
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

// slowly is a place whose pods take their time over an answer.
func slowly(takes time.Duration, answer func() float64) Probe {
	return func(ctx context.Context) Reading {
		wait, cancel := context.WithTimeout(ctx, takes)
		defer cancel()
		<-wait.Done()
		if ctx.Err() != nil {
			return Reading{Status: Unknown}
		}
		return Reading{Status: Healthy, Counters: map[string]float64{"n": answer()}}
	}
}

// cycles are those of a slow probe: the totals, -1 where there is none, and the addresses
// that are known to be several. No cycle waits longer than its probe may.
func cycles(t *testing.T, totals *Totals, slow Probe, n int) (got []float64, mixed []string) {
	t.Helper()
	target := Target{Service: counting, Probe: slow, Answered: totals.Ask}
	for range n {
		began := time.Now()
		o := Observe(t.Context(), []Target{target}, 4*time.Second)[0]
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("a cycle took %s", took)
		}
		sums, m := totals.Add(o)
		mixed = m
		total, known := sums["n"]
		if !known {
			total = -1
		}
		got = append(got, total)
		pass(cycleInterval - time.Since(began))
	}
	return got, mixed
}

// The bursts of a service that is slow go on in the next cycles: one that is not over
// proves nothing. A fall that there was no time to ask about adds nothing.
func TestABurstHasTheTimeOfItsProbe(t *testing.T) {
	t.Parallel()
	for takes, restarted := range map[time.Duration][]float64{10 * time.Millisecond: {104, 106, 108}, time.Second: {100, 100, 100}} {
		synctest.Test(t, func(t *testing.T) {
			totals := begun()
			value := 100.0
			slow := slowly(takes, func() float64 { return value })
			got, _ := cycles(t, totals, slow, 13)
			if want := slices.Repeat([]float64{100}, 13); !slices.Equal(got, want) {
				t.Errorf("where an answer takes %s: %v, want %v", takes, got, want)
			}
			got = nil
			for value = 4; value < 40; value += 2 {
				more, _ := cycles(t, totals, slow, 1)
				got = append(got, more...)
			}
			if !slices.Equal(got[:len(restarted)], restarted) {
				t.Errorf("where an answer takes %s, after a restart: %v, want %v", takes, got, restarted)
			}
			for n, total := range got[1:] {
				if grown := total - got[n]; grown != 0 && grown != 2 {
					t.Errorf("where an answer takes %s: %v", takes, got)
				}
			}
			if n := len(got); got[n-1] != got[n-2]+2 {
				t.Errorf("where an answer takes %s it does not count again: %v", takes, got)
			}
		})
	}
}

// Two behind one address that answer slowly, or refuse to be asked often, are found out
// as well, and never leap.
func TestTwoSlowOnesBehindOneAddress(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]func(random *rand.Rand) Probe{
		"at random": func(random *rand.Rand) Probe {
			return slowly(500*time.Millisecond, func() float64 { return []float64{5_000_000, 20_000}[random.IntN(2)] })
		},
		"in turn": func(*rand.Rand) Probe {
			n := 0
			return slowly(700*time.Millisecond, func() float64 { n++; return []float64{5_000_000, 20_000}[n%2] })
		},
		"one ask a cycle": func(random *rand.Rand) Probe {
			var asked time.Time
			return func(context.Context) Reading {
				if time.Since(asked) < cycleInterval {
					return Reading{Status: Degraded, HTTPStatus: 429}
				}
				asked = time.Now()
				return Reading{Status: Healthy, Counters: map[string]float64{"n": []float64{5_000_000, 20_000}[random.IntN(2)]}}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				found := 0
				for seed := range 40 {
					got, mixed := cycles(t, begun(20_000), slow(rand.New(rand.NewPCG(uint64(seed), 7))), 40)
					if len(mixed) > 0 {
						found++
					}
					for i, total := range got {
						if total >= 0 && total != 20_000 {
							t.Fatalf("seed %d, cycle %d: %v", seed, i, got)
						}
					}
				}
				if found < 38 {
					t.Errorf("found out in %d of 40", found)
				}
			})
		})
	}
}

// The world of the property test: pods that count, each from zero at its start, and
// addresses, behind each of which are one or more.
type world struct {
	random  *rand.Rand
	pods    []*pod
	counted float64 // by all that ever were
	next    int
}

type pod struct {
	value, rate float64
	rest        float64 // of a count
	surge       float64 // so many more every nine seconds
	crashes     bool    // every 7 to 20 s
	untilCrash  time.Duration
	untilSurge  time.Duration
	silent      int // for so many cycles
}

type place struct {
	key    string
	pods   []*pod
	inTurn bool
	asked  int
	said   *pod    // in the cycle before
	value  float64 // what it said
}

func (w *world) add(p *pod) *pod {
	p.untilSurge, p.untilCrash = 9*time.Second, w.seconds(7, 20)
	w.pods = append(w.pods, p)
	return p
}

func (w *world) seconds(from, to float64) time.Duration {
	return time.Duration((from + (to-from)*w.random.Float64()) * float64(time.Second))
}

// place makes an address with these pods behind it.
func (w *world) place(pods ...*pod) *place {
	w.next++
	return &place{key: fmt.Sprintf("10.0.0.%d", w.next), pods: pods}
}

// pass lets all pods count for some time.
func (w *world) pass(d time.Duration) {
	pass(d)
	for _, p := range w.pods {
		for left := d; left > 0; {
			step := min(left, p.untilSurge)
			if p.crashes {
				step = min(step, p.untilCrash)
			}
			left, p.untilSurge, p.untilCrash = left-step, p.untilSurge-step, p.untilCrash-step
			w.count(p, p.rate*step.Seconds())
			if p.untilSurge == 0 {
				w.count(p, p.surge)
				p.untilSurge = 9 * time.Second
			}
			if p.crashes && p.untilCrash == 0 {
				p.value, p.untilCrash = 0, w.seconds(7, 20)
			}
		}
	}
}

// count is of whole numbers.
func (w *world) count(p *pod, n float64) {
	n, p.rest = math.Modf(n + p.rest)
	p.value += n
	w.counted += n
}

// pick is who answers at a place.
func (w *world) pick(p *place) *pod {
	p.asked++
	if p.inTurn {
		return p.pods[p.asked%len(p.pods)]
	}
	return p.pods[w.random.IntN(len(p.pods))]
}

// read is what a cycle reads of a place, and by how much the address has leapt to
// another pod's larger counter, which nobody can know.
func (w *world) read(p *place) (i InstanceReading, leapt float64) {
	who := w.pick(p)
	i = InstanceReading{Address: p.key, Key: p.key, Reading: Reading{Status: Unknown}}
	if who.silent > 0 {
		who.silent--
		return i, 0
	}
	answer := func(who *pod) Reading {
		return Reading{Status: Healthy, Counters: map[string]float64{"n": who.value}}
	}
	i.Reading = answer(who)
	i.Again = func(context.Context) Reading {
		w.pass(w.seconds(0.001, 0.02))
		return answer(w.pick(p))
	}
	if p.said != nil && p.said != who && who.value >= p.value {
		leapt = who.value - p.value
	}
	p.said, p.value = who, who.value
	return i, leapt
}

// kind is what a world has; change is called before every cycle.
type kind struct {
	name    string
	setUp   func(w *world) []*place
	change  func(w *world, cycle int, places []*place) []*place
	terms   bool // begin anew now and then
	absent  bool // the counters are to be, all the time but for a few cycles
	back    bool // the counters are to be back in the end
	oneOnly bool // one honest instance, which has points whenever it answers
}

var kinds = []kind{
	{name: "a fast one", oneOnly: true, terms: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: 1e6, rate: 30_000}))}
	}},
	{name: "bursts", oneOnly: true, terms: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{rate: 10 * w.random.Float64(), surge: 60_000}))}
	}},
	{name: "crashes", oneOnly: true, terms: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{rate: math.Pow(10, 5*w.random.Float64()), crashes: true}))}
	}},
	{name: "one that hangs and idles", oneOnly: true, terms: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{rate: 1}))}
	}, change: func(w *world, _ int, places []*place) []*place {
		if p := places[0].pods[0]; w.random.IntN(10) == 0 {
			p.silent = w.random.IntN(12)
		} else if w.random.IntN(10) == 0 {
			p.rate = float64(w.random.IntN(2) * w.random.IntN(1000))
		}
		return places
	}},
	{name: "two behind one address, very different", absent: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: 5e6, rate: 100}), w.add(&pod{value: 2e4, rate: 100}))}
	}},
	{name: "two behind one address in turn", absent: true, setUp: func(w *world) []*place {
		p := w.place(w.add(&pod{value: 5e6, rate: 100}), w.add(&pod{value: 2e4, rate: 100}))
		p.inTurn = true
		return []*place{p}
	}},
	{name: "two behind one address, similar", absent: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: 1e5, rate: 100}), w.add(&pod{value: 1e5 + 5 + float64(w.random.IntN(1000)), rate: 100}))}
	}},
	{name: "two behind one address that crash", absent: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{rate: 3000, crashes: true}), w.add(&pod{value: 1e6, rate: 3000}))}
	}},
	{name: "two behind one address, of which one ends", back: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: 5e6, rate: 100}), w.add(&pod{value: 2e4, rate: 100}))}
	}, change: func(w *world, cycle int, places []*place) []*place {
		if p := places[0]; cycle == 5 {
			i := w.random.IntN(2)
			p.pods = p.pods[i : i+1]
		}
		return places
	}},
	{name: "one of several addresses has two", absent: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: 1e5, rate: 100})), w.place(w.add(&pod{value: 5e6, rate: 100}), w.add(&pod{value: 2e4, rate: 100}))}
	}},
	{name: "several that come and go", terms: true, setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: float64(w.random.IntN(1e6)), rate: 100}))}
	}, change: comeAndGo},
	{name: "several that come and go, without new terms", setUp: func(w *world) []*place {
		return []*place{w.place(w.add(&pod{value: float64(w.random.IntN(1e6)), rate: 100}))}
	}, change: comeAndGo},
}

// comeAndGo lets pods start, also at an address that another had, stop, crash and hang.
func comeAndGo(w *world, _ int, places []*place) []*place {
	if len(places) == 0 || w.random.IntN(8) == 0 {
		p := w.place(w.add(&pod{rate: 1 + 1000*w.random.Float64(), crashes: w.random.IntN(8) == 0}))
		p.key = fmt.Sprintf("10.0.0.%d", w.random.IntN(12))
		if !slices.ContainsFunc(places, func(other *place) bool { return other.key == p.key }) {
			places = append(places, p)
		}
	}
	return slices.DeleteFunc(places, func(p *place) bool {
		if w.random.IntN(50) == 0 {
			p.pods[0].silent = w.random.IntN(20)
		}
		return w.random.IntN(40) == 0
	})
}

// point is one of the series, as it is stored.
type point struct {
	total   float64
	counted float64 // by all pods until then
}

// The rates that the platform makes of the series, where it takes the difference of
// neighbouring points, or where that is negative the whole newer value: they are never
// negative, and never more than was counted in the interval and the one before it. An
// honest single instance has a point whenever it answers.
func TestTheRatesAreWhatWasCounted(t *testing.T) {
	t.Parallel()
	for n, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for seed := range *trials {
					if problem := k.trial(rand.New(rand.NewPCG(uint64(seed), uint64(n)))); problem != "" {
						t.Fatalf("seed %d: %s", seed, problem)
					}
				}
			})
		})
	}
}

const trialCycles = 90

func (k kind) trial(random *rand.Rand) (problem string) {
	w := &world{random: random}
	places := k.setUp(w)
	for _, p := range w.pods {
		w.counted += p.value
	}
	totals := begun()
	var points []point
	newTerm, absent, total := true, 0, 0.0
	for n := range trialCycles {
		w.pass(cycleInterval)
		if k.change != nil {
			places = k.change(w, n, places)
		}
		if k.terms && random.IntN(20) == 0 {
			w.pass(time.Duration(random.IntN(4)) * cycleInterval)
			points = restart(totals, points, random)
			newTerm = true
		}
		var instances []InstanceReading
		leapt := 0.0
		for _, p := range places {
			i, l := w.read(p)
			instances, leapt = append(instances, i), leapt+l
		}
		counted := w.counted
		if len(instances) == 0 {
			continue
		}
		total = turn(totals, instances...)
		answered := slices.ContainsFunc(instances, func(i InstanceReading) bool { return i.Status == Healthy })
		switch {
		case total < 0 && k.oneOnly && answered:
			return fmt.Sprintf("cycle %d: no point, though it answered", n)
		case total < 0:
			absent++
			continue
		}
		if len(points) > 0 {
			last := points[len(points)-1]
			may := counted - points[max(len(points)-2, 0)].counted + leapt
			if newTerm && len(instances) == 1 { // what earlier terms have lost is seen again
				may = counted - last.total
			}
			if total < last.total {
				return fmt.Sprintf("cycle %d: the total falls from %g to %g: the rate is %g", n, last.total, total, total)
			}
			if rate := total - last.total; rate > may {
				return fmt.Sprintf("cycle %d: %g counted, at most %g were", n, rate, may)
			}
		}
		points = append(points, point{total, counted})
		newTerm = false
	}
	if k.back && total < 0 {
		return "the counters are not back"
	}
	if k.absent && absent < trialCycles*8/10 {
		return fmt.Sprintf("points in %d of %d cycles", trialCycles-absent, trialCycles)
	}
	return ""
}

// restart begins a term from what is stored: the newest of the points, or an older one
// where the newest were lost, or what no total can be.
func restart(totals *Totals, points []point, random *rand.Rand) []point {
	totals.Begin()
	points = points[:len(points)-random.IntN(len(points)+1)/8]
	stored := map[string]float64{}
	if len(points) > 0 {
		stored["n"] = points[len(points)-1].total
	}
	if random.IntN(10) == 0 {
		stored["n"] = []float64{math.NaN(), math.Inf(1), math.Inf(-1)}[random.IntN(3)]
		points = nil
	}
	totals.Resume(stored)
	return points
}

// Where nothing is in doubt the totals are exactly those of the rule: what is stored or
// was read first, and every increase of each instance that was there in the cycle
// before, or the one before that.
func TestTheTotalsAreThoseOfTheRule(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for seed := range *trials {
			random := rand.New(rand.NewPCG(uint64(seed), 99))
			w := &world{random: random}
			places := []*place{w.place(w.add(&pod{rate: 100}))}
			totals, model := begun(), reference{seen: map[string]seen{}}
			for n := range trialCycles {
				w.pass(cycleInterval)
				places = comeAndGo(w, n, places)
				var instances []InstanceReading
				for _, p := range places {
					i, _ := w.read(p)
					instances = append(instances, i)
				}
				if len(instances) == 0 {
					continue
				}
				got := turn(totals, instances...)
				if slices.ContainsFunc(slices.Collect(maps.Values(totals.instances)), func(c *counted) bool { return c.doubt }) {
					break // it crashed while it was asked
				}
				if want := model.add(instances); got != want {
					t.Fatalf("seed %d, cycle %d: %g, want %g", seed, n, got, want)
				}
			}
		}
	})
}

type reference struct {
	total float64
	cycle int
	seen  map[string]seen
}

type seen struct {
	value float64
	cycle int
}

func (r *reference) add(instances []InstanceReading) float64 {
	sum, answered := 0.0, 0
	for _, i := range instances {
		if i.Status == Healthy {
			answered++
		}
	}
	if answered == 0 {
		return -1
	}
	r.cycle++
	for _, i := range instances {
		if i.Status != Healthy {
			continue
		}
		value := i.Counters["n"]
		sum += value
		switch before, known := r.seen[i.Key]; {
		case !known || r.cycle-before.cycle > 2:
		case value < before.value:
			r.total += value
		default:
			r.total += value - before.value
		}
		r.seen[i.Key] = seen{value, r.cycle}
	}
	if r.cycle == 1 {
		r.total = sum
	}
	return r.total
}

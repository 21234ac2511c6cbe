package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ops_worker/internal/config"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/logtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// ingestService is the platform's, which has counters and a gauge.
func ingestService(t *testing.T) config.Service {
	t.Helper()
	services := config.PlatformServices()
	i := slices.IndexFunc(services, func(s config.Service) bool { return s.Name == "ingest" })
	return services[i]
}

// counted is an instance that has counted so much, with something queued.
func counted(received, queued float64) probe.Reading {
	return probe.Reading{Status: probe.Healthy, HTTPStatus: 200, Latency: time.Millisecond,
		Counters: map[string]float64{"messages_received": received, "messages_written": received, "messages_rejected": 0, "queue_depth": queued}}
}

// valueOf is a sample of ingest in a cycle, and whether there is one.
func valueOf(c spool.Cycle, metric string) (value float64, ok bool) {
	i := slices.IndexFunc(c.Samples, func(s spool.Sample) bool { return s.Service == "ingest" && s.Metric == metric })
	if i < 0 {
		return 0, false
	}
	return c.Samples[i].Value, true
}

// line is what a cycle has of ingest: messages_written, queue_depth and healthy, "-"
// where there is none.
func line(c spool.Cycle) string {
	var parts []string
	for _, metric := range []string{"messages_written", "queue_depth", "healthy"} {
		part := "-"
		if value, ok := valueOf(c, metric); ok {
			part = fmt.Sprint(int(value))
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " ")
}

// rig is a collector of one service whose instances answer readings.
type rig struct {
	store     *fakeStore
	readings  []probe.Reading
	collector *metricsCollector
	log       logtest.Log
	ctx       context.Context
}

func newRig(t *testing.T, buffer spool.Buffer) *rig {
	t.Helper()
	r := &rig{store: newFakeStore()}
	r.collector = collectorOf([]probe.Target{instancesOf(ingestService(t), &r.readings)}, r.store, leasetest.Held(t, r.store, 24*time.Hour), buffer, 5*time.Second)
	r.ctx = r.log.Logger().WithContext(t.Context())
	return r
}

// cycle runs one of these readings, in a synctest bubble.
func (r *rig) cycle(t *testing.T, readings ...probe.Reading) string {
	t.Helper()
	r.readings = readings
	if err := r.collector.Cycle(r.ctx); err != nil {
		t.Fatal(err)
	}
	pass(5 * time.Second)
	return line(r.collector.gatherer.last)
}

func TestCountersOfInstancesAreOneRunningTotal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		for _, step := range []struct {
			what     string
			readings []probe.Reading
			want     string
		}{
			{"two", []probe.Reading{counted(5_000_000, 3), counted(20_000, 4)}, "5020000 7 1"},
			{"both have counted", []probe.Reading{counted(5_000_500, 3), counted(20_500, 0)}, "5021000 3 1"},
			{"one is silent", []probe.Reading{counted(5_001_000, 3), deadInstance}, "5021500 - 1"},
			{"it is back", []probe.Reading{counted(5_001_500, 3), counted(21_500, 1)}, "5023000 4 1"},
			{"one restarts", []probe.Reading{counted(5_002_000, 3), counted(400, 1)}, "5023900 4 1"},
			{"one is gone", []probe.Reading{counted(5_002_500, 3)}, "5024400 3 1"},
			{"one is new", []probe.Reading{counted(5_003_000, 3), counted(900, 0), counted(77_000, 0)}, "5025400 3 1"},
			{"fewer than half answer", []probe.Reading{counted(5_003_500, 3), deadInstance, deadInstance}, "5025900 - 0"},
			{"none answers", []probe.Reading{deadInstance, deadInstance}, "- - 0"},
			{"all are back", []probe.Reading{counted(5_004_000, 3), counted(1400, 0), counted(78_000, 0)}, "5027900 3 1"},
		} {
			if got := r.cycle(t, step.readings...); got != step.want {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
		}
		wantNoErrors(t, &r.log)
	})
}

// A term goes on from what is stored and what waits to be, or from what the
// instances say where that is more.
func TestATermGoesOnFromWhatIsStored(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ stored, waits, says, want float64 }{
		"nothing is there":   {0, 0, 900, 900},
		"stored is more":     {5000, 0, 900, 5000},
		"it says more":       {5000, 0, 7000, 7000},
		"what waits is more": {5000, 6000, 900, 6000},
		"what waits is less": {5000, 4000, 900, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				buffer := spool.NewMemory(10)
				r := newRig(t, buffer)
				written := func(v float64) []spool.Sample {
					return []spool.Sample{sampleOf("ingest", "messages_written", v)}
				}
				if test.stored > 0 {
					r.store.cycles = append(r.store.cycles, spool.Cycle{At: time.Now().Add(-time.Minute), Samples: written(test.stored)})
				}
				if test.waits > 0 {
					for i, v := range []float64{test.waits, 0} { // the newest has no such sample
						c := spool.Cycle{At: time.Now().Add(time.Duration(i-20) * time.Second)}
						if v > 0 {
							c.Samples = written(v)
						}
						if _, err := buffer.Push(c); err != nil {
							t.Fatal(err)
						}
					}
				}
				for n := range 2 {
					want := fmt.Sprintf("%d 0 1", int(test.want)+5*n)
					if got := r.cycle(t, counted(test.says+float64(5*n), 0)); got != want {
						t.Errorf("cycle %d: %s, want %s", n, got, want)
					}
				}
			})
		})
	}
}

// Another replica has collected in between.
func TestTheNextTermReadsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		r.cycle(t, counted(1000, 0))
		r.store.cycles = append(r.store.cycles, spool.Cycle{At: time.Now(), Samples: []spool.Sample{sampleOf("ingest", "messages_written", 9000)}})
		if got := r.cycle(t, counted(1100, 0)); got != "1100 0 1" {
			t.Errorf("in the same term: %s", got)
		}
		r.store.cycles = append(r.store.cycles, spool.Cycle{At: time.Now(), Samples: []spool.Sample{sampleOf("ingest", "messages_written", 9000)}})
		if _, err := r.collector.gatherer.lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		for n, want := range []string{"9000 0 1 -", "9100 0 1 20"} {
			if got := r.cycle(t, counted(1200+100*float64(n), 0)) + " " + r.rateOf(); got != want {
				t.Errorf("in the next: %s, want %s", got, want)
			}
		}
	})
}

func TestWithoutTheStoredValuesThereAreNoCounters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		r.store.cycles = append(r.store.cycles, spool.Cycle{At: time.Now().Add(-time.Minute), Samples: []spool.Sample{sampleOf("ingest", "messages_written", 9000)}})
		fails := true
		r.store.SetFail(func(operation string) error {
			if fails && operation == "newest" {
				return errors.New("permission denied")
			}
			return nil
		})
		for range 3 {
			if got := r.cycle(t, counted(1000, 2)); got != "- 2 1" {
				t.Errorf("%s", got)
			}
		}
		fails = false
		if got := r.cycle(t, counted(1000, 2)); got != "9000 2 1" {
			t.Errorf("%s", got)
		}
		if lines := r.log.Lines(t, "stored counters cannot be read, none are stored until they can"); len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0]["error"]), "permission denied") {
			t.Errorf("log: %v", lines)
		}
	})
}

// Two behind one address, in turn: none is stored as the other's, and what is to be done
// is said. The counters come back by themselves.
func TestSeveralInstancesBehindOneAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		n, asks := 0, 0
		r.collector.gatherer.targets[0].Instances = func() []probe.Instance {
			return []probe.Instance{{Address: "10.0.0.1:8080", Probe: func(context.Context) probe.Reading {
				asks++
				values := []float64{5_000_000 + 500*float64(n), 20_000 + 500*float64(n)}
				if n >= 100 {
					return counted(values[0], 1)
				}
				return counted(values[asks%2], 1)
			}}}
		}
		written := []string{}
		for n = range 200 {
			got := r.cycle(t)
			if !strings.HasPrefix(got, "-") {
				written = append(written, fmt.Sprint(n, ": ", got))
			}
			switch rate := r.rateOf(); {
			case strings.HasPrefix(got, "-") || len(written) == 1: // without counters, and in the first cycle with them
				if rate != "-" {
					t.Errorf("cycle %d: %s, and a rate of %s", n, got, rate)
				}
			case rate != "100" && rate != "0": // where it asks once more
				t.Errorf("cycle %d: %s, and a rate of %s", n, got, rate)
			}
			if !strings.HasSuffix(got, " 1") {
				t.Errorf("cycle %d: healthy stops too: %s", n, got)
			}
		}
		// Five bursts, a minute apart, have shown one.
		if written[0] != "156: 5078000 1 1" || written[1] != "157: 5078500 1 1" {
			t.Errorf("stored: %s", written[:2])
		}
		lines := r.log.Lines(t, "several instances answer behind one address, the service's counters are not stored")
		if len(lines) == 0 || lines[0]["monitored"] != "ingest" || lines[0]["error"] != "10.0.0.1:8080: "+probe.SeveralAdvice("INGEST_HEALTH_URL") {
			t.Errorf("log: %v", lines)
		}
		if n := len(r.log.Lines(t, "the service's counters are stored again")); n != 1 {
			t.Errorf("%d lines say that it is over", n)
		}
	})
}

// Where several instances behind one address have no rate, an outage is no rate of 0 either:
// it would be the newest for as long as samples are kept.
func TestAnOutageBehindOneAddressIsNoRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		n, asks, away := 0, 0, false
		r.collector.gatherer.targets[0].Instances = func() []probe.Instance {
			return []probe.Instance{{Address: "10.0.0.1:8080", Probe: func(context.Context) probe.Reading {
				if asks++; away {
					return deadInstance
				}
				return counted([]float64{5_000_000, 20_000}[asks%2]+500*float64(n), 1)
			}}}
		}
		for n = range 60 {
			away = n/10%2 == 1
			if r.cycle(t); r.rateOf() != "-" {
				t.Errorf("cycle %d has a rate of %s", n, r.rateOf())
			}
		}
	})
}

// A newer release of ingest reports what waits under another name.
func TestTheQueueIsWhatWaitsInTheStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		newer := func(pending float64) probe.Reading {
			reading := counted(100, 0)
			delete(reading.Counters, "queue_depth")
			reading.Counters["nats_telemetry_pending"] = pending
			return reading
		}
		for _, step := range []struct {
			readings []probe.Reading
			want     string
		}{
			{[]probe.Reading{newer(7)}, "100 7 1"},
			{[]probe.Reading{newer(7), counted(0, 4)}, "100 11 1"}, // one is older
			{[]probe.Reading{newer(7), deadInstance}, "100 - 1"},
		} {
			if got := r.cycle(t, step.readings...); got != step.want {
				t.Errorf("%s, want %s", got, step.want)
			}
		}
	})
}

// A number that the table of services does not name is not stored: nobody knows what it
// counts. A gauge that it names is, once a minute.
func TestNumbersThatTheTableDoesNotName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pass(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		r := newRig(t, spool.NewMemory(10))
		stored := map[string][]string{}
		for n := range 30 {
			first, second := counted(100, 0), counted(100, 0)
			for _, c := range []map[string]float64{first.Counters, second.Counters} {
				c["nats_shadow_pending"] = float64(n % 7)
				c["in_flight"] = float64(30 + n) // a gauge, for all anybody knows
				c["devices_online"] = 1          // a chart's, of another service
				c["healthy"] = 5                 // the collector's own word
			}
			r.cycle(t, first, second)
			names := map[string]int{}
			for _, s := range r.collector.gatherer.last.Samples {
				if s.Service != "ingest" {
					continue
				}
				if names[s.Metric]++; names[s.Metric] > 1 {
					t.Errorf("cycle %d has two samples of %s", n, s.Metric)
				}
				switch s.Metric {
				case "messages_received", "messages_written", "messages_rejected", "queue_depth", "healthy", "ingest_rate", "instances", "instances_healthy":
				default:
					stored[s.Metric] = append(stored[s.Metric], fmt.Sprintf("%d %g", n, s.Value))
				}
			}
		}
		if diff := cmp.Diff(map[string][]string{"nats_shadow_pending": {"0 0", "12 10", "24 6"}}, stored); diff != "" {
			t.Error(diff)
		}
	})
}

// rateOf is the sample ingest_rate of the newest cycle, "-" where there is none.
func (r *rig) rateOf() string {
	value, ok := valueOf(r.collector.gatherer.last, "ingest_rate")
	if !ok {
		return "-"
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

// The rate is that of the running totals, over the time since the newest cycle that had
// them: whatever restarts, joins or goes, it is no spike.
func TestTheIngestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, spool.NewMemory(10))
		for _, step := range []struct {
			what     string
			readings []probe.Reading
			want     string
		}{
			{"the first of a term", []probe.Reading{counted(5_000_000, 3)}, "-"},
			{"500 in 5 s", []probe.Reading{counted(5_000_500, 3)}, "100"},
			{"none", []probe.Reading{counted(5_000_500, 3)}, "0"},
			{"no answer", []probe.Reading{deadInstance}, "0"},
			{"nor now", []probe.Reading{deadInstance}, "0"},
			{"what was counted in 15 s", []probe.Reading{counted(5_001_700, 3)}, "80"},
			{"it restarts", []probe.Reading{counted(50, 3)}, "10"},
			{"a second one", []probe.Reading{counted(550, 3), counted(9_000_000, 1)}, "100"},
			{"both count", []probe.Reading{counted(1050, 3), counted(9_000_250, 1)}, "150"},
			{"the first is silent", []probe.Reading{deadInstance, counted(9_000_500, 1)}, "50"},
		} {
			r.cycle(t, step.readings...)
			if got := r.rateOf(); got != step.want {
				t.Errorf("%s: %s, want %s", step.what, got, step.want)
			}
		}
	})
}

// A number of an extra service is stored as it was read, whatever it does.
func TestNumbersOfAnExtraServiceAreStoredAsTheyAreRead(t *testing.T) {
	t.Parallel()
	store := newFakeStore()
	value := 0.0
	targets := []probe.Target{{Service: config.Service{Name: "billing", Extra: true}, Probe: func(context.Context) probe.Reading {
		reading := wellInstance
		reading.Counters = map[string]float64{"orders": value}
		return reading
	}}}
	collector := collectorOf(targets, store, heldLease(t, store), spool.NewMemory(10), 5*time.Second)
	for _, value = range []float64{5_000_000, 20, 5_000_001, 3} {
		if err := collector.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("billing orders %g", value)
		if got := table(collector.gatherer.last.Samples); !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

// Each address is asked again; where that shows a second instance there are no counters
// from the first cycle on.
func TestAnAddressThatLeadsToTwo(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		other float64 // what another one says there
		want  string
	}{
		"less":  {20_000, "- - 1"},
		"more":  {70_000_000, "- - 1"},
		"alone": {5_000_000, "5000000 1 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, spool.NewMemory(10))
				asks := 0
				r.collector.gatherer.targets[0].Instances = func() []probe.Instance {
					return []probe.Instance{{Address: "ingest:8080", Probe: func(context.Context) probe.Reading {
						asks++
						return counted([]float64{5_000_000, test.other}[asks%2], 1)
					}}}
				}
				for n := range 13 {
					if got := r.cycle(t); got != test.want {
						t.Errorf("cycle %d: %s, want %s", n, got, test.want)
					}
				}
				if name == "alone" && asks != 13+2*8+8 {
					t.Errorf("asked %d times in a minute", asks)
				}
			})
		})
	}
}

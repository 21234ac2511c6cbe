package collectors

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// cpuTime is what this process has used of the CPU; the services and the database
// are others.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// measure runs cycle b.N times and reports the CPU of each. BENCH_PACE, such as 5s,
// is how far they are apart: as in a worker that runs, what the processor had cached
// is gone then, which costs as much again.
func measure(b *testing.B, cycle func() error) {
	b.Helper()
	pace, err := time.ParseDuration(os.Getenv("BENCH_PACE"))
	if err != nil && os.Getenv("BENCH_PACE") != "" {
		b.Fatal(err)
	}
	for range 2 { // which connect, and read the stored totals
		if err := cycle(); err != nil {
			b.Fatal(err)
		}
	}
	begin := cpuTime(b)
	b.ReportAllocs()
	for b.Loop() {
		if pace > 0 {
			b.StopTimer()
			time.Sleep(pace)
			b.StartTimer()
		}
		if err := cycle(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime(b)-begin).Microseconds())/float64(b.N), "cpu-µs/op")
}

// playedServices starts the simulated services, in a process of their own, and returns
// their address.
func playedServices(b *testing.B) string {
	b.Helper()
	binary := filepath.Join(b.TempDir(), "platform-sim")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", binary, "../cmd/platform-sim").CombinedOutput(); err != nil {
		b.Fatalf("build platform-sim: %v\n%s", err, out)
	}
	services := exec.Command(binary, "--listen", "127.0.0.1:0", "services")
	stderr, err := services.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := services.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = services.Process.Kill() // it has nothing to lose
		_ = services.Wait()
	})
	line, err := bufio.NewReader(stderr).ReadString('\n')
	_, address, found := strings.Cut(strings.TrimSpace(line), " listens on ")
	if err != nil || !found {
		b.Fatalf("platform-sim says %q, %v", line, err)
	}
	return "http://" + address
}

// extra is HEALTH_SERVICES of so many services.
func extra(n int, url, query string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("s%d=%s/s%[1]d?%[3]s", i, url, query)
	}
	return "HEALTH_SERVICES=" + strings.Join(list, ",")
}

// benchmarkWorker is a worker on a real database that holds the lease, with so many
// extra services of so many counters.
func benchmarkWorker(b *testing.B, services, counters int) *Worker {
	b.Helper()
	url := playedServices(b)
	cfg, err := config.FromEnvironment([]string{
		"DATABASE_URL=" + pgtest.New(b).URL, "LEASE_TTL=1h", "INGEST_HEALTH_URL=" + url + "/ingest", "EVALUATOR_HEALTH_URL=" + url + "/evaluator",
		extra(services, url, fmt.Sprintf("counters=%d", counters)),
	})
	if err != nil {
		b.Fatal(err)
	}
	pool, err := db.Open(b.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	worker := NewWorker(Options{Config: cfg, Pool: pool, Buffer: spool.NewMemory(cfg.BufferCycles), Log: zerolog.Nop()})
	if _, err := worker.Lease.TryAcquire(b.Context()); err != nil {
		b.Fatal(err)
	}
	return worker
}

func benchmarkCycle(b *testing.B, loop *Loop) {
	b.Helper()
	loop.Log, loop.Interval = zerolog.Nop(), time.Minute
	measure(b, func() error {
		_, err := loop.runOnce(b.Context(), loop.Log)
		return err
	})
}

// everyCycle are the aggregates of an ordinary cycle.
func everyCycle() []db.Aggregate {
	return slices.DeleteFunc(slices.Clone(Aggregates), func(a db.Aggregate) bool { return a.Every > 0 })
}

// BenchmarkMetricsCycle gathers and stores a cycle of so many samples.
func BenchmarkMetricsCycle(b *testing.B) {
	for samples, extra := range map[int][2]int{16: {0, 0}, 60: {3, 14}, 1000: {197, 4}} {
		b.Run(fmt.Sprintf("%d", samples), func(b *testing.B) {
			worker := benchmarkWorker(b, extra[0], extra[1])
			worker.metrics.counting.schedule = newSchedule(everyCycle(), worker.cfg.MetricsInterval, 0.02)
			benchmarkCycle(b, &Loop{Name: MetricsLoop, Cycle: worker.metrics.Cycle})
			if n := len(worker.metrics.gatherer.last.Samples); n < samples || n > samples+8 {
				b.Fatalf("a cycle of %d samples", n)
			}
		})
	}
}

// BenchmarkBareCycle does the work of a cycle of 16 samples and nothing else: two
// GETs, the generated queries one by one, one insert, with net/http and pgx as they
// come.
func BenchmarkBareCycle(b *testing.B) {
	url := playedServices(b)
	pool, err := pgxpool.New(b.Context(), pgtest.New(b).URL)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	b.Cleanup(http.DefaultClient.CloseIdleConnections)
	const insert = `INSERT INTO system_metrics (time, metric_name, service, value) SELECT $1, unnest($2::text[]), unnest($3::text[]), unnest($4::float8[])`
	measure(b, func() error {
		var names, services []string
		var values []float64
		for _, service := range []string{"ingest", "evaluator"} {
			response, err := http.Get(url + "/" + service + "/health")
			if err != nil {
				return err
			}
			var body struct {
				Counters map[string]float64 `json:"counters"`
			}
			err = json.NewDecoder(response.Body).Decode(&body)
			response.Body.Close()
			if err != nil {
				return err
			}
			for name, value := range body.Counters {
				names, services, values = append(names, name), append(services, service), append(values, value)
			}
		}
		err := db.ReadAggregates(b.Context(), db.New(pool), everyCycle(), func(_ db.Aggregate, samples []db.Sample, _ time.Duration) {
			for _, s := range samples {
				names, services, values = append(names, s.MetricName), append(services, s.Service), append(values, s.Value)
			}
		})
		if err != nil {
			return err
		}
		_, err = pool.Exec(b.Context(), insert, time.Now(), names, services, values)
		return err
	})
}

// BenchmarkHealthCycle asks so many extra services and stores how they are.
func BenchmarkHealthCycle(b *testing.B) {
	for _, services := range []int{0, config.MaxExtra} {
		b.Run(fmt.Sprintf("%d", services), func(b *testing.B) {
			worker := benchmarkWorker(b, services, 1)
			benchmarkCycle(b, &Loop{Name: HealthLoop, Cycle: worker.health.cycle})
		})
	}
}

// BenchmarkFanOut asks so many services at once, each of which takes its time.
func BenchmarkFanOut(b *testing.B) {
	url := playedServices(b)
	for _, delay := range []time.Duration{0, 100 * time.Millisecond} {
		for _, n := range []int{1, 10, 100, config.MaxExtra} {
			b.Run(fmt.Sprintf("%s/%d", delay, n), func(b *testing.B) {
				cfg, err := config.FromEnvironment([]string{extra(n, url, "delay="+delay.String())})
				if err != nil {
					b.Fatal(err)
				}
				client := probe.NewClient(config.Config{Instances: true})
				targets := probe.Targets(cfg.Services[len(cfg.Services)-n:], client, nil)
				measure(b, func() error {
					for _, o := range probe.Observe(b.Context(), targets, probe.Timeout) {
						if o.Status != probe.Healthy {
							return fmt.Errorf("%s: %s", o.Service, o.Reason())
						}
					}
					return nil
				})
			})
		}
	}
}

// BenchmarkCatchUp stores an hour of buffered cycles.
func BenchmarkCatchUp(b *testing.B) {
	worker := benchmarkWorker(b, 0, 0)
	at := time.Now().UTC()
	for b.Loop() {
		cycles := make([]spool.Cycle, 60)
		for range 12 { // 720 cycles of 15 samples
			for i := range cycles {
				at = at.Add(5 * time.Second)
				cycles[i] = spool.Cycle{At: at, Samples: make([]spool.Sample, 15)}
				for j := range cycles[i].Samples {
					cycles[i].Samples[j] = sampleOf("ingest", "messages_written", float64(j))
				}
			}
			if _, _, err := worker.Store.AppendCycles(b.Context(), worker.Lease.Token(), cycles, false); err != nil {
				b.Fatal(err)
			}
		}
	}
}

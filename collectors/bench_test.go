package collectors

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/spool"
)

// cpuTime is what this process has used of the CPU, the benchmark's simulated
// services included.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// benchmarkWorker is a worker on a real database that holds the lease.
func benchmarkWorker(b *testing.B) *Worker {
	b.Helper()
	database := pgtest.New(b)
	service := func(counters string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"status":"healthy","counters":%s}`, counters)
		}))
		b.Cleanup(server.Close)
		return server.URL
	}
	cfg, err := config.FromEnvironment([]string{
		"DATABASE_URL=" + database.URL,
		"INGEST_HEALTH_URL=" + service(contracttest.Answers["ingest"]),
		"EVALUATOR_HEALTH_URL=" + service(contracttest.Answers["evaluator"]),
	})
	if err != nil {
		b.Fatal(err)
	}
	pool, err := db.Open(b.Context(), cfg.DatabaseOptions())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	worker := NewWorker(cfg, pool, spool.NewMemory(cfg.BufferCycles), NoHeart, zerolog.Nop())
	b.Cleanup(worker.Close)
	if _, err := worker.Lease.TryAcquire(b.Context()); err != nil {
		b.Fatal(err)
	}
	return worker
}

func benchmarkCycle(b *testing.B, worker *Worker, loop *Loop) {
	b.Helper()
	loop.Log, loop.Interval = zerolog.Nop(), time.Minute
	begin := cpuTime(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := loop.runOnce(b.Context(), loop.Log); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime(b)-begin).Microseconds())/float64(b.N), "cpu-µs/op")
}

func BenchmarkMetricsCycle(b *testing.B) {
	worker := benchmarkWorker(b)
	benchmarkCycle(b, worker, &Loop{Name: MetricsLoop, Cycle: worker.Metrics.Cycle})
}

func BenchmarkHealthCycle(b *testing.B) {
	worker := benchmarkWorker(b)
	benchmarkCycle(b, worker, &Loop{Name: HealthLoop, Cycle: worker.Health.Cycle})
}

// BenchmarkCatchUp stores an hour of buffered cycles.
func BenchmarkCatchUp(b *testing.B) {
	worker := benchmarkWorker(b)
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

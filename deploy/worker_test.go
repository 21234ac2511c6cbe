package deploy

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"ops_worker/internal/pgtest"
	"ops_worker/internal/platformsim"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// worker is a process of ops-worker.
type worker struct {
	address string // of its /metrics
	stop    func()
}

// startWorker builds ops-worker and runs it until stop is called or the test ends.
func startWorker(t *testing.T, environ ...string) *worker {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ops-worker")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-C", "..", "-o", binary, "./cmd/ops-worker").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, output)
	}
	command := exec.Command(binary, "run")
	command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "STATE_DIR=" + t.TempDir(), "HTTP_ADDR=127.0.0.1:0", "METRICS_COLLECTION_INTERVAL=1s", "HEALTH_CHECK_INTERVAL=5s"}, environ...)
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(address)
		for log := bufio.NewScanner(stderr); log.Scan(); {
			var line struct{ Msg, Address string }
			_ = json.Unmarshal(log.Bytes(), &line) // a line that is no JSON has no address either
			if line.Msg == "HTTP is served" {
				address <- line.Address
			}
			t.Logf("%s", log.Text())
		}
	})
	w := &worker{stop: sync.OnceFunc(func() {
		_ = command.Process.Signal(syscall.SIGTERM) // Wait tells how it ended
		reading.Wait()
		if err := command.Wait(); err != nil {
			t.Errorf("ops-worker: %v", err)
		}
	})}
	t.Cleanup(w.stop)
	w.address = <-address
	if w.address == "" {
		t.Fatal("the worker serves no HTTP")
	}
	return w
}

// simulated serves a simulated service until the test ends.
func simulated(t *testing.T, name string) (service *platformsim.Service, url string) {
	t.Helper()
	service, err := platformsim.New(name)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	return service, server.URL
}

// scrape is what /metrics shows, by the text of each series.
type scrape map[string]sample

type sample struct {
	labels labels.Labels
	value  float64
}

// scrape reads /metrics with Prometheus's own parser, and names the target as Prometheus would.
func (w *worker) scrape(t *testing.T) scrape {
	t.Helper()
	response, err := http.Get("http://" + w.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser, err := textparse.New(text, response.Header.Get("Content-Type"), labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := scrape{}
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		text, _, value := parser.Series()
		var l labels.Labels
		parser.Labels(&l)
		named := labels.NewBuilder(l).Set("job", job).Set("instance", instance).Labels()
		found[string(text)] = sample{named, value}
	}
}

// The target's labels.
const (
	job      = "ops_worker"
	instance = "ops_worker:8080"
)

// await scrapes until condition holds.
func (w *worker) await(t *testing.T, what string, condition func(scrape) bool) (last scrape) {
	t.Helper()
	pgtest.Eventually(t, what, func() bool {
		last = w.scrape(t)
		return condition(last)
	})
	return last
}

// stretch is some seconds of a worker, by a scrape at their begin and one at their end. Drawn out, each series goes on as it
// went in them.
type stretch struct {
	from, to scrape
	cycles   float64 // of the metrics loop between them, a second each
}

const metricsCycles = `ops_worker_cycles_total{loop="metrics"}`

// watch scrapes twice, so many cycles apart.
func (w *worker) watch(t *testing.T, cycles float64) stretch {
	t.Helper()
	from := w.scrape(t)
	to := w.await(t, "some cycles", func(s scrape) bool { return s[metricsCycles].value >= from[metricsCycles].value+cycles })
	return stretch{from, to, to[metricsCycles].value - from[metricsCycles].value}
}

// at is what a scrape would show so many seconds after the first.
func (s stretch) at(seconds float64) []sample {
	var samples []sample
	for _, name := range slices.Sorted(maps.Keys(s.from)) {
		begin, end := s.from[name], s.to[name]
		begin.value += (end.value - begin.value) / s.cycles * seconds
		samples = append(samples, begin)
	}
	return samples
}

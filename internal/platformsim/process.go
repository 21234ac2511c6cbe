package platformsim

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/internal/config"
)

// The two jobs that ops-worker takes over, as Jobs names them. Whatever else a
// process does is played by a beat.
const (
	HealthMonitor    = "health_monitor"
	MetricsCollector = "metrics_collector"
)

var (
	startLine  = regexp.MustCompile(`^\s*await (?:\w+\.)*(\w+)\.start\(\)`)
	gatherLine = regexp.MustCompile(`^\s*(?:await )?(?:\w+\.)*gather\($`)
	gathered   = regexp.MustCompile(`^\s*(?:run_)?(\w+)\(.*\),$`)
)

// Jobs are what a process's main.py starts: the lines that await a start(), and
// those within its gather(…). So a line that is taken out there takes its job out.
func Jobs(source string) []string {
	var jobs []string
	inside := false
	lines := bufio.NewScanner(strings.NewReader(source))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case gatherLine.MatchString(line):
			inside = true
		case inside && strings.TrimSpace(line) == ")":
			inside = false
		case inside:
			if found := gathered.FindStringSubmatch(line); found != nil {
				jobs = append(jobs, found[1])
			}
		default:
			if found := startLine.FindStringSubmatch(line); found != nil {
				jobs = append(jobs, found[1])
			}
		}
	}
	return jobs
}

//go:embed beats.sql
var beatsSQL string

// PrepareBeats makes the table in which the jobs other than the two leave a row
// whenever they run.
func PrepareBeats(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, beatsSQL); err != nil {
		return fmt.Errorf("make the table of beats: %w", err)
	}
	return nil
}

const beatInterval = time.Second

// RunJobs plays a process of the platform that runs these jobs, until the context
// ends. As in the process that it stands for, no lease orders them: whoever runs,
// writes.
func RunJobs(ctx context.Context, pool *pgxpool.Pool, cfg config.Config, jobs []string) {
	var running sync.WaitGroup
	for _, job := range jobs {
		interval, cycle := beatInterval, func() { beat(ctx, pool, job) }
		switch job {
		case HealthMonitor:
			interval, cycle = cfg.HealthInterval, func() { monitor(ctx, pool, cfg.Services) }
		case MetricsCollector:
			interval, cycle = cfg.MetricsInterval, func() { collect(ctx, pool, cfg.Services) }
		}
		running.Go(func() { repeat(ctx, interval, cycle) })
	}
	running.Wait()
}

// repeat waits an interval after each cycle, as the old loops do.
func repeat(ctx context.Context, interval time.Duration, cycle func()) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
			cycle()
			pause.Reset(interval)
		}
	}
}

//go:embed beat.sql
var beatSQL string

// An error of what follows is dropped: the next cycle makes up for it.
func beat(ctx context.Context, pool *pgxpool.Pool, job string) {
	_, _ = pool.Exec(ctx, beatSQL, job)
}

//go:embed old_health.sql
var oldHealthSQL string

// monitor is a cycle of the old health monitor: one service after the other, each
// row with a time of its own. It opens no alerts.
func monitor(ctx context.Context, pool *pgxpool.Pool, services []config.Service) {
	for _, s := range services {
		status := "healthy"
		if _, ok := answer(s); !ok {
			status = "unhealthy"
		}
		_, _ = pool.Exec(ctx, oldHealthSQL, s.Name, status)
	}
}

//go:embed old_metrics.sql
var oldMetricsSQL string

//go:embed old_platform_metrics.sql
var oldPlatformMetricsSQL string

// collect is a cycle of the old metrics collector. Where a table of the platform
// is missing it writes no sample of the platform.
func collect(ctx context.Context, pool *pgxpool.Pool, services []config.Service) {
	var names, metrics []string
	var values []float64
	add := func(service, metric string, value float64) {
		names, metrics, values = append(names, service), append(metrics, metric), append(values, value)
	}
	for _, s := range services {
		if s.Kind != config.ProbeCounters {
			continue
		}
		counters, ok := answer(s)
		if !ok {
			add(s.Name, config.HealthSample, 0)
			continue
		}
		add(s.Name, config.HealthSample, 1)
		for _, c := range s.Counters {
			add(s.Name, c.Name, counters[c.Name])
		}
	}
	_, _ = pool.Exec(ctx, oldMetricsSQL, names, metrics, values)
	_, _ = pool.Exec(ctx, oldPlatformMetricsSQL)
}

const askTimeout = 3 * time.Second

// answer returns a service's counters. What is no service with counters is well.
func answer(s config.Service) (counters map[string]float64, ok bool) {
	if s.Kind != config.ProbeCounters {
		return nil, true
	}
	client := &http.Client{Timeout: askTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(s.Addresses[0])
	if err != nil {
		return nil, false
	}
	defer response.Body.Close()
	var body struct {
		Counters map[string]float64 `json:"counters"`
	}
	err = json.NewDecoder(response.Body).Decode(&body)
	return body.Counters, err == nil && response.StatusCode == http.StatusOK
}

// Health answers GET /health and /ready of a process that has no counters.
func Health() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/health", "/ready"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"status":"healthy"}`)) // the client may be gone
		})
	}
	return mux
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ops_worker/internal/pgtest"
	"ops_worker/internal/schema"
)

// envRole makes this test binary play the worker, or the demonstration's own process, in a test of the other.
const envRole = "DEMO_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(envRole) {
	case "worker":
		os.Exit(fakeWorker())
	case "failing worker":
		os.Exit(3)
	case "demo with a worker":
		if err := os.Setenv(envRole, "worker"); err != nil {
			os.Exit(1)
		}
		os.Exit(run(os.Args[1], os.Environ(), os.Stdout))
	case "demo":
		if err := os.Setenv(envRole, "failing worker"); err != nil {
			os.Exit(1)
		}
		os.Exit(run(os.Args[1], os.Environ(), os.Stdout))
	}
	pgtest.Main(m)
}

// fakeWorker migrates and waits for a SIGTERM, or shows the status.
func fakeWorker() int {
	if os.Args[1] == "status" {
		fmt.Println("the status")
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	pool, err := openPool(ctx, os.Getenv("DATABASE_URL"))
	if err == nil {
		defer pool.Close()
		_, err = schema.MigrateUp(ctx, pool, false)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	fmt.Println("worker: interval", os.Getenv("METRICS_COLLECTION_INTERVAL"), "arguments", os.Args[1:])
	<-ctx.Done()
	fmt.Println("worker: stopped")
	return 0
}

// watched is an output that calls back once, when it contains a text.
type watched struct {
	mu    sync.Mutex
	bytes bytes.Buffer
	text  string
	found func()
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.bytes.Write(p)
	if w.found != nil && strings.Contains(w.bytes.String(), w.text) {
		w.found()
		w.found = nil
	}
	return n, err
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes.String()
}

func TestDemonstration(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	t.Setenv(envRole, "worker")
	t.Setenv("METRICS_COLLECTION_INTERVAL", "7")
	t.Setenv("HEALTH_CHECK_INTERVAL", "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	output := &watched{text: "the status", found: cancel}
	d := demo{worker: os.Args[0], output: output, moveInterval: 10 * time.Millisecond, reportInterval: 200 * time.Millisecond}
	if err := d.run(ctx); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, want := range []string{
		"DATABASE_URL=postgres://", "worker: interval 7 arguments [run]", "the status", "worker: stopped",
	} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("the output does not contain %q:\n%s", want, output)
		}
	}
	_, address, _ := strings.Cut(output.String(), "DATABASE_URL=")
	address, _, _ = strings.Cut(address, "\n")
	if conn, err := pgx.Connect(t.Context(), address); err == nil {
		conn.Close(t.Context())
		t.Error("the database is still there")
	}
}

// TestWhatItSaysToTry runs what is printed as another terminal would, on the real worker.
func TestWhatItSaysToTry(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	for name, value := range map[string]string{"HEALTH_CHECK_INTERVAL": "5", "METRICS_COLLECTION_INTERVAL": "", "STATE_DIR": "", "LOG_FORMAT": "console"} {
		t.Setenv(name, value)
	}
	worker := filepath.Join(t.TempDir(), "ops-worker")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", worker, "../ops-worker").CombinedOutput(); err != nil {
		t.Fatalf("build the worker: %v\n%s", err, output)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	shown := make(chan struct{})
	output := &watched{text: "LEADER", found: func() { close(shown) }} // of the first report
	d := demo{worker: worker, output: output, log: output, moveInterval: time.Second, reportInterval: 2 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	select {
	case <-shown:
	case err := <-ended:
		t.Fatalf("ended with %v\n%s", err, output)
	}

	_, text, _ := strings.Cut(output.String(), "in another terminal")
	text, _, _ = strings.Cut(text, "\ndemo:")
	lines := strings.Split(text, "\n  ")[1:]
	if len(lines) < 2 {
		t.Fatalf("nothing to try in\n%s", output)
	}
	other := terminal{lines[0]}
	status := worker + " status"
	alert := func() bool { return strings.Contains(other.run(t, 0, status), "Service unhealthy: evaluator") }
	for _, line := range lines[1:] {
		switch {
		case strings.Contains(line, "status --watch"):
			other.watch(t, line)
		case strings.Contains(line, "doctor"):
			if text := other.run(t, 1, line); !strings.Contains(text, "ok      health every 5s, metrics every 2s") || !strings.Contains(text, " collects since ") {
				t.Errorf("doctor finds another worker or none:\n%s", text)
			}
		case strings.Contains(line, "-X POST"):
			other.run(t, 0, line)
			pgtest.Eventually(t, "an alert of the evaluator opens", alert)
		case strings.Contains(line, "-X DELETE"):
			other.run(t, 0, line)
			pgtest.Eventually(t, "the alert closes", func() bool { return !alert() })
		default:
			t.Errorf("nothing tries %q", line)
		}
	}
	other.run(t, 0, worker+" healthcheck")
	if text := other.run(t, 0, worker+" once health --dry-run"); !strings.Contains(text, "evaluator  healthy") {
		t.Errorf("once asks another evaluator or none:\n%s", text)
	}
	other.run(t, 0, worker+" once metrics --dry-run")

	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if strings.Contains(output.String(), "\x1b") {
		t.Errorf("escape codes in a pipe:\n%q", output)
	}
	if _, err := os.Stat(filepath.Dir(strings.Trim(lines[0][strings.LastIndex(lines[0], " ")+1:], "'"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of %q is left behind: %v", lines[0], err)
	}
}

// terminal is another one, in which nothing is set but by its first line.
type terminal struct{ first string }

func (o terminal) command(t *testing.T, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), name, args...)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm"}
	return command
}

// run returns what a line prints, into a pipe, where it ends with status worst or better.
func (o terminal) run(t *testing.T, worst int, line string) string {
	t.Helper()
	command := o.command(t, "sh", "-c", o.first+"\n"+line)
	output, err := command.CombinedOutput()
	if command.ProcessState.ExitCode() > worst || command.ProcessState.ExitCode() < 0 {
		t.Errorf("%s: %v\n%s", line, err, output)
	}
	if bytes.ContainsRune(output, '\x1b') {
		t.Errorf("%s prints escape codes into a pipe:\n%q", line, output)
	}
	return string(output)
}

// watch runs a line on a terminal of its own, until it has shown something, and presses q.
func (o terminal) watch(t *testing.T, line string) {
	t.Helper()
	command := o.command(t, "script", "--quiet", "--return", "--command", o.first+"\n"+line, "/dev/null")
	keys, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output := &watched{text: "AVAILABILITY", found: func() { fmt.Fprint(keys, "q") }}
	command.Stdout, command.Stderr = output, output
	if err := command.Run(); err != nil {
		t.Errorf("%s: %v\n%s", line, err, output)
	}
}

func TestWorkerEndsByItself(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	t.Setenv(envRole, "failing worker")
	d := demo{worker: os.Args[0], output: t.Output(), moveInterval: time.Second, reportInterval: time.Second}
	err := d.run(t.Context())
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("ended with %v, want the worker's exit status 3", err)
	}
}

func TestNoWorker(t *testing.T) {
	d := demo{worker: filepath.Join(t.TempDir(), "ops-worker"), output: t.Output()}
	if err := d.run(t.Context()); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error %v does not say what to do", err)
	}
}

// TestWithDatabaseURL expects the process to become the worker, and its exit status to be the worker's.
func TestWithDatabaseURL(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), os.Args[0], os.Args[0])
	command.Env = append(os.Environ(), envRole+"=demo", "DATABASE_URL=postgres://nobody@127.0.0.1:1/none")
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended with %v, want exit status 3\n%s", err, output)
	}
	if !strings.HasPrefix(string(output), "demo: DATABASE_URL is set") || strings.Count(string(output), "\n") != 1 {
		t.Errorf("something was simulated, or nothing says why not: %s", output)
	}
}

func TestWithDatabaseURLAndNoWorker(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
	if got := run(filepath.Join(t.TempDir(), "ops-worker"), nil, t.Output()); got != 1 {
		t.Errorf("exit status %d, want 1", got)
	}
}

func TestInOutage(t *testing.T) {
	t.Parallel()
	for elapsed, want := range map[time.Duration]bool{
		0:                 false,
		24 * time.Second:  false,
		25 * time.Second:  true,
		44 * time.Second:  true,
		45 * time.Second:  false,
		85 * time.Second:  true,
		110 * time.Second: false,
	} {
		if got := inOutage(elapsed); got != want {
			t.Errorf("after %s: %v, want %v", elapsed, got, want)
		}
	}
}

// A demonstration that is killed leaves neither its worker behind nor its settings, which
// hold a password.
func TestAKilledDemonstrationStopsItsWorker(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	folder, err := os.MkdirTemp("", "demo-test-") // which PostgreSQL's user may enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.Chmod(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(ctx, os.Args[0], os.Args[0])
	command.Env = append(os.Environ(), envRole+"=demo with a worker", "DATABASE_URL=", "TMPDIR="+folder)
	command.WaitDelay = time.Minute // the worker holds the output open
	output := &watched{text: "worker: interval", found: func() { _ = command.Process.Kill() }}
	command.Stdout, command.Stderr = output, output
	err = command.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v\n%s", err, output)
	}
	if !strings.Contains(output.String(), "worker: stopped") {
		t.Errorf("the worker goes on:\n%s", output)
	}
	pgtest.Eventually(t, "the folder is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(folder, "ops-worker-demo-*"))
		return err == nil && len(left) == 0
	})
}

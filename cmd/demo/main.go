// Command demo is what `make run` runs: the worker, with a platform around it.
//
//	demo [worker binary]
//
// Without DATABASE_URL it starts a throw-away PostgreSQL and simulated services, seeds a small fleet, runs the worker
// against them, shows what arrives and says what to try, until Ctrl-C; nothing is left behind. With DATABASE_URL it
// simulates nothing and becomes the worker.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"ops_worker/db"
	"ops_worker/internal/pgserver"
	"ops_worker/internal/platformsim"
)

const (
	// tablesTimeout is how long the worker may take from its start until its migrations are done.
	tablesTimeout = 30 * time.Second
	// stopTimeout is how long the worker may take to stop before it is killed; it promises 5 s.
	stopTimeout = 10 * time.Second

	// Once in every outageInterval ingest is away for outageLength, which is longer than the worker's health interval:
	// an alert opens and closes again.
	outageInterval = time.Minute
	outageStart    = 25 * time.Second
	outageLength   = 20 * time.Second
)

func main() {
	worker := "bin/ops-worker"
	if len(os.Args) > 1 {
		worker = os.Args[1]
	}
	os.Exit(run(worker, os.Environ(), os.Stdout))
}

// run returns the exit status.
func run(worker string, environ []string, output io.Writer) int {
	worker, err := filepath.Abs(worker)
	if err == nil && os.Getenv("DATABASE_URL") != "" {
		fmt.Fprintln(output, "demo: DATABASE_URL is set: the worker runs on that database, and nothing is simulated. For the demonstration: env -u DATABASE_URL make run")
		// The process becomes the worker, so signals and the exit status are the worker's own.
		err = fmt.Errorf("run %s: %w", worker, syscall.Exec(worker, []string{worker, "run"}, environ))
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		d := demo{worker: worker, output: output, log: os.Stderr, moveInterval: time.Second, reportInterval: 20 * time.Second}
		err = d.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

// demo is a demonstration: which worker, shown where and how often.
type demo struct {
	worker string
	output io.Writer
	log    io.Writer // the worker's

	moveInterval   time.Duration
	reportInterval time.Duration
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.output, "demo: "+format+"\n", args...)
}

// run returns when the context ends, which is no error, or when a part of the demonstration fails.
func (d *demo) run(ctx context.Context) (err error) {
	if _, err := os.Stat(d.worker); err != nil {
		return fmt.Errorf("find the worker (make build): %w", err)
	}
	d.say("starting PostgreSQL")
	server, err := pgserver.Start(ctx)
	if ctx.Err() != nil && err != nil { // initdb was killed
		return nil
	}
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, server.Close()); err == nil {
			d.say("all is stopped and removed")
		}
	}()

	const database = "iotcloud"
	if err := server.Create(ctx, database); err != nil {
		return stopped(ctx, err)
	}
	d.say("PostgreSQL is at\n  DATABASE_URL=%s", server.URL(database))

	folder, err := os.MkdirTemp("", "ops-worker-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the worker's state: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()

	pool, err := openPool(ctx, server.URL(database))
	if err != nil {
		return err
	}
	defer pool.Close()

	return stopped(ctx, d.runParts(ctx, pool, server.URL(database), folder))
}

// runParts runs the services, the worker and what is around them; the first that fails ends the others.
func (d *demo) runParts(ctx context.Context, pool *pgxpool.Pool, address, folder string) error {
	ingest, ingestListener, err := simulate(ctx, "ingest")
	if err != nil {
		return err
	}
	evaluator, evaluatorListener, err := simulate(ctx, "evaluator")
	if err != nil {
		return errors.Join(err, ingestListener.Close())
	}
	settings := []string{
		"DATABASE_URL=" + address,
		"INGEST_HEALTH_URL=http://" + ingestListener.Addr().String(),
		"EVALUATOR_HEALTH_URL=http://" + evaluatorListener.Addr().String(),
		"METRICS_COLLECTION_INTERVAL=" + cmp.Or(os.Getenv("METRICS_COLLECTION_INTERVAL"), "2"),
		"HEALTH_CHECK_INTERVAL=" + cmp.Or(os.Getenv("HEALTH_CHECK_INTERVAL"), "10"),
		"STATE_DIR=" + cmp.Or(os.Getenv("STATE_DIR"), folder),
	}
	toTry, err := d.whatToTry(folder, settings)
	if err != nil {
		return errors.Join(err, ingestListener.Close(), evaluatorListener.Close())
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return platformsim.Serve(ctx, ingestListener, ingest) })
	group.Go(func() error { return platformsim.Serve(ctx, evaluatorListener, evaluator) })
	group.Go(func() error {
		err := d.runWorker(ctx, folder, settings)
		switch {
		case ctx.Err() != nil:
			return err
		case err != nil:
			return fmt.Errorf("the worker ended by itself: %w", err)
		default:
			return errors.New("the worker ended by itself")
		}
	})
	group.Go(func() error {
		waiting, cancel := context.WithTimeoutCause(ctx, tablesTimeout, errors.New("the worker did not migrate in time"))
		defer cancel()
		if err := platformsim.AwaitTables(waiting, pool); err != nil {
			return err
		}
		if err := platformsim.Seed(ctx, pool); err != nil {
			return err
		}
		d.say("the worker has migrated, the fleet is seeded\n%s", toTry)
		return d.animate(ctx, pool, settings, ingest, toTry)
	})
	return group.Wait()
}

// whatToTry is a text whose first command gives another terminal the worker's settings. They are in a file, since a long line
// is hard to copy.
func (d *demo) whatToTry(folder string, settings []string) (string, error) {
	quoted := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	var lines strings.Builder
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		fmt.Fprintf(&lines, "export %s=%s\n", name, quoted(value))
	}
	file := filepath.Join(folder, "settings")
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		return "", fmt.Errorf("write the settings for another terminal: %w", err)
	}
	here, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the current directory: %w", err)
	}
	worker, err := filepath.Rel(here, d.worker)
	if err != nil {
		return "", fmt.Errorf("find the worker from here: %w", err)
	}
	return fmt.Sprintf(`demo: in another terminal, paste the first line, then try the others:
  cd %s && . %s
  %[3]s status --watch
  %[3]s doctor
  curl -X POST "$EVALUATOR_HEALTH_URL/outage"    # the next health check opens an alert
  curl -X DELETE "$EVALUATOR_HEALTH_URL/outage"  # the next one closes it
demo: ingest fails by itself, %d s of every %d; Ctrl-C stops everything`,
		quoted(here), quoted(file), worker, outageLength/time.Second, outageInterval/time.Second), nil
}

// stopped leaves out the error of whatever the end of the context has interrupted.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

func openPool(ctx context.Context, address string) (*pgxpool.Pool, error) {
	return db.Open(ctx, db.Options{URL: address, MaxConns: 2, ConnectTimeout: pgserver.StepTimeout, ApplicationName: "demo"})
}

// simulate makes a service, and a loopback port for it.
func simulate(ctx context.Context, name string) (*platformsim.Service, net.Listener, error) {
	service, err := platformsim.New(name)
	if err != nil {
		return nil, nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("listen for %s: %w", name, err)
	}
	return service, listener, nil
}

// runWorker runs the worker with these settings until the context ends.
func (d *demo) runWorker(ctx context.Context, folder string, settings []string) error {
	command := exec.CommandContext(ctx, d.worker, "run")
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = stopTimeout
	command.Stdout, command.Stderr = d.output, d.log
	command.Env = append(os.Environ(), settings...) // of two, the last counts
	if err := command.Start(); err != nil {
		return err
	}
	// It must not outlive a demonstration that is killed.
	guard, err := pgserver.NewGuard(`kill -TERM "$1"; while kill -0 "$1"; do sleep 0.1; done; rm -rf "$2"`, strconv.Itoa(command.Process.Pid), folder)
	if err != nil {
		return errors.Join(err, command.Cancel(), command.Wait())
	}
	err = command.Wait()
	return errors.Join(err, guard.Dismiss())
}

// animate keeps the platform moving and prints its status. What to try stands below each, where it can be seen.
func (d *demo) animate(ctx context.Context, pool *pgxpool.Pool, settings []string, ingest *platformsim.Service, toTry string) error {
	move, report := time.NewTicker(d.moveInterval), time.NewTicker(d.reportInterval)
	defer move.Stop()
	defer report.Stop()
	started := time.Now()
	away := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-move.C:
			if out := inOutage(now.Sub(started)); out != away {
				away = out
				ingest.SetOutage(out)
				d.say("ingest is %s", map[bool]string{true: "away", false: "back"}[out])
			}
			if err := platformsim.Move(ctx, pool); err != nil {
				return stopped(ctx, err)
			}
		case <-report.C:
			status := exec.CommandContext(ctx, d.worker, "status")
			status.Env = append(os.Environ(), settings...)
			status.Stderr = d.log
			text, err := status.Output()
			if ctx.Err() != nil { // it was killed
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(d.output, "\n%s\n%s\n", text, toTry) // in one piece among the worker's lines
		}
	}
}

// inOutage tells whether ingest is away after some time.
func inOutage(elapsed time.Duration) bool {
	phase := elapsed % outageInterval
	return phase >= outageStart && phase < outageStart+outageLength
}

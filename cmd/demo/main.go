// Command demo is what `make run` runs: the worker, with a platform around it.
//
//	demo [worker binary]
//
// Without DATABASE_URL it starts a throw-away PostgreSQL and simulated services, seeds a small fleet, runs the worker
// against them and shows what arrives, until Ctrl-C; nothing is left behind. With DATABASE_URL it simulates nothing and
// becomes the worker.
package main

import (
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
		// The process becomes the worker, so signals and the exit status are the worker's own.
		err = fmt.Errorf("run %s: %w", worker, syscall.Exec(worker, []string{worker, "run"}, environ))
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		d := demo{worker: worker, output: output, moveInterval: time.Second, reportInterval: 5 * time.Second}
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
	if err != nil {
		return stopped(ctx, err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()

	const database = "iotcloud"
	if err := server.Create(ctx, database); err != nil {
		return stopped(ctx, err)
	}
	d.say("PostgreSQL is at\n  DATABASE_URL=%s", server.URL(database))

	state, err := os.MkdirTemp("", "ops-worker-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the worker's state: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()

	pool, err := openPool(ctx, server.URL(database))
	if err != nil {
		return err
	}
	defer pool.Close()

	return stopped(ctx, d.runParts(ctx, pool, server.URL(database), state))
}

// runParts runs the services, the worker and what is around them; the first that fails ends the others.
func (d *demo) runParts(ctx context.Context, pool *pgxpool.Pool, address, state string) error {
	ingest, ingestListener, err := simulate(ctx, "ingest")
	if err != nil {
		return err
	}
	evaluator, evaluatorListener, err := simulate(ctx, "evaluator")
	if err != nil {
		return errors.Join(err, ingestListener.Close())
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return platformsim.Serve(ctx, ingestListener, ingest) })
	group.Go(func() error { return platformsim.Serve(ctx, evaluatorListener, evaluator) })
	group.Go(func() error {
		err := d.runWorker(ctx, []string{
			"DATABASE_URL=" + address,
			"INGEST_HEALTH_URL=http://" + ingestListener.Addr().String(),
			"EVALUATOR_HEALTH_URL=http://" + evaluatorListener.Addr().String(),
		}, map[string]string{
			"METRICS_COLLECTION_INTERVAL": "2",
			"HEALTH_CHECK_INTERVAL":       "10",
			"STATE_DIR":                   state,
		})
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
		d.say("the worker has migrated, the fleet is seeded; Ctrl-C stops everything")
		return d.animate(ctx, pool, address, ingest)
	})
	return group.Wait()
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

// runWorker runs the worker until the context ends. Variables of fixed replace the environment's, those of defaults
// only fill in.
func (d *demo) runWorker(ctx context.Context, fixed []string, defaults map[string]string) error {
	command := exec.CommandContext(ctx, d.worker, "run")
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = stopTimeout
	command.Stdout, command.Stderr = d.output, os.Stderr
	command.Env = os.Environ()
	for name, value := range defaults {
		if os.Getenv(name) == "" {
			command.Env = append(command.Env, name+"="+value)
		}
	}
	command.Env = append(command.Env, fixed...) // of two, the last counts
	if err := command.Start(); err != nil {
		return err
	}
	// It must not outlive a demonstration that is killed.
	guard, err := pgserver.NewGuard(`kill -TERM "$1"`, strconv.Itoa(command.Process.Pid))
	if err != nil {
		return errors.Join(err, command.Cancel(), command.Wait())
	}
	err = command.Wait()
	return errors.Join(err, guard.Dismiss())
}

// animate keeps the platform moving and prints its status.
func (d *demo) animate(ctx context.Context, pool *pgxpool.Pool, address string, ingest *platformsim.Service) error {
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
			status.Env = append(os.Environ(), "DATABASE_URL="+address)
			status.Stderr = os.Stderr
			text, err := status.Output()
			if err != nil {
				return stopped(ctx, err)
			}
			fmt.Fprintf(d.output, "\n%s\n", text) // in one piece among the worker's lines
		}
	}
}

// inOutage tells whether ingest is away after some time.
func inOutage(elapsed time.Duration) bool {
	phase := elapsed % outageInterval
	return phase >= outageStart && phase < outageStart+outageLength
}

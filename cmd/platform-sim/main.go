// Command platform-sim plays one of the platform's services:
//
//	platform-sim [--listen :8080] ingest|evaluator|dispatcher|delivery
//	platform-sim [--listen :8080] services
//	platform-sim --check http://127.0.0.1:8080/health
//	platform-sim fleet
//	platform-sim migrator [FILES]
//	platform-sim [--listen :8080] process MAIN.PY
//
// It answers GET /health as the platform does, with counters that move, until SIGTERM or SIGINT; from POST /outage to
// DELETE /outage it answers 503. The second form
// plays any number of services at once, each at a path of its own: /NAME/health, or for an extra service
// /NAME?delay=100ms&counters=1. The third asks a service once and exits 0 if it is healthy: a container's health check
// needs no other program. The fourth fills the platform's tables, once the worker has made them, and keeps them moving; PGHOST, PGUSER, PGPASSWORD and PGDATABASE
// say where.
//
// The last two stand for what is around a cut-over. The migrator applies the platform's files, or only the first FILES
// of them, and ends. A process is the platform's API or its own worker: it runs the jobs that its main.py starts, the
// health monitor and the metrics collector among them. Both take the platform's own variables, DATABASE_URL and so on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/platformsim"
)

const checkTimeout = 3 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

// run returns the exit status: 2 for wrong usage, 1 for a failure.
func run(ctx context.Context, args []string, output io.Writer) int {
	flags := flag.NewFlagSet("platform-sim", flag.ContinueOnError)
	flags.SetOutput(output)
	listen := flags.String("listen", ":8080", "the `address` to listen on")
	target := flags.String("check", "", "ask the service at this `URL` once, and exit 0 if it answers 200")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2 // flag has said why
	}
	var err error
	switch name := flags.Arg(0); {
	case *target != "":
		err = check(*target)
	case name == "fleet":
		err = fleet(ctx)
	case name == "migrator":
		err = migrator(ctx, flags.Arg(1), output)
	case name == "process":
		err = process(ctx, *listen, flags.Arg(1), output)
	case name == "services":
		err = serve(ctx, *listen, name, platformsim.Services(), output)
	default:
		service, unknown := platformsim.New(name)
		if unknown != nil || flags.NArg() != 1 {
			fmt.Fprintln(output, "platform-sim: name one service:", errors.Join(unknown))
			return 2
		}
		err = serve(ctx, *listen, name, service, output)
	}
	if err != nil {
		fmt.Fprintln(output, "platform-sim:", err)
		return 1
	}
	return 0
}

// serve answers requests until the context ends.
func serve(ctx context.Context, address, name string, handler http.Handler, output io.Writer) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Fprintf(output, "platform-sim: %s listens on %s\n", name, listener.Addr())
	return platformsim.Serve(ctx, listener, handler)
}

// migrator applies the platform's files, or only the first so many. It takes the platform's variables, as process does.
func migrator(ctx context.Context, count string, output io.Writer) error {
	cfg, err := config.FromEnvironment(os.Environ())
	if err != nil {
		return err
	}
	files, err := contracttest.MigratorFiles()
	if err != nil {
		return err
	}
	if count != "" {
		n, err := strconv.Atoi(count)
		if err != nil || n < 0 || n > len(files) {
			return fmt.Errorf("the migrator has %d files, not %q", len(files), count)
		}
		files = files[:n]
	}
	pool, err := db.Open(ctx, db.OptionsFrom(cfg.Database, cfg.ServiceName))
	if err != nil {
		return err
	}
	defer pool.Close()
	applied, err := contracttest.ApplyMigratorFiles(ctx, pool, files)
	if err != nil {
		return err
	}
	fmt.Fprintf(output, "platform-sim: the migrator has applied %d files\n", applied)
	return platformsim.PrepareBeats(ctx, pool)
}

// process runs the jobs that a main.py starts.
func process(ctx context.Context, listen, file string, output io.Writer) error {
	cfg, err := config.FromEnvironment(os.Environ())
	if err != nil {
		return err
	}
	source, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read what the process starts: %w", err)
	}
	jobs := platformsim.Jobs(string(source))
	if len(jobs) == 0 {
		return fmt.Errorf("%s starts nothing", file)
	}
	pool, err := db.Open(ctx, db.OptionsFrom(cfg.Database, cfg.ServiceName))
	if err != nil {
		return err
	}
	defer pool.Close()
	fmt.Fprintf(output, "platform-sim: %s runs %s\n", cfg.ServiceName, strings.Join(jobs, ", "))
	// A process that cannot serve ends, and its jobs with it.
	ctx, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { platformsim.RunJobs(ctx, pool, cfg, jobs) })
	err = serve(ctx, listen, cfg.ServiceName, platformsim.Health(), output)
	end()
	running.Wait()
	return err
}

const moveInterval = time.Second

// fleet moves the fleet in the database that libpq's variables name.
func fleet(ctx context.Context) error {
	pool, err := db.Open(ctx, db.Options{URL: "postgres://", MaxConns: 1, ConnectTimeout: checkTimeout, ApplicationName: "platform-sim"})
	if err != nil {
		return err
	}
	defer pool.Close()
	return platformsim.RunFleet(ctx, pool, moveInterval)
}

func check(target string) error {
	client := &http.Client{Timeout: checkTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(target)
	if err != nil {
		return fmt.Errorf("ask the service: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the service: it answers %s", response.Status)
	}
	return nil
}

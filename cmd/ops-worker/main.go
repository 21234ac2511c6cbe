// Command ops-worker is the IoT platform's health monitor and metrics
// collector.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ops_worker/internal/config"
	"ops_worker/internal/schema"
)

// The exit statuses. doctor uses the same numbers for all well, warnings and
// failures.
const (
	exitOK = iota
	exitFailed
	exitUsage // wrong settings or arguments
)

// Stamped by the linker; see the Makefile.
var (
	version = "dev"
	commit  = "unknown"
	date    = "unknown"
)

func main() {
	stdlog.SetOutput(io.Discard) // where net/http says what a service sends unasked; its probe says so too
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, _ := signal.NotifyContext(context.Background(), signals...)
	// Where a stop takes longer, something stands still that nothing else can end. No second
	// signal shortens it: a worker that is killed hands back no lease.
	context.AfterFunc(ctx, func() {
		time.Sleep(4900 * time.Millisecond)
		os.Exit(exitFailed)
	})
	os.Exit(execute(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// exitError ends a command with an exit status; an empty text prints nothing.
type exitError struct {
	status int
	text   string
}

func (e *exitError) Error() string { return e.text }

// execute runs the command line and returns the exit status.
func execute(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := newRootCommand(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	started := false // an error before that is one of the arguments
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "ops-worker:", text)
	}
	var exit *exitError
	var settings *config.Error
	switch {
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &settings), schema.IsRefused(err), !started:
		return exitUsage
	}
	return exitFailed
}

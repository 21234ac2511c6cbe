// Command ops-worker is the IoT platform's health monitor and metrics
// collector.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"ops_worker/internal/config"
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
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	// After the first signal the default handling is back, so a second one ends
	// the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// exitError carries a command's exit status; an empty one prints nothing.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// execute runs the command line and returns the exit status.
func execute(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := newRootCommand(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	started := false
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
	case errors.As(err, &settings), !started:
		return exitUsage
	}
	return exitFailed
}

// Command with-postgres runs another command beside a throw-away PostgreSQL:
//
//	with-postgres --env NAME [--migrate] -- command [argument…]
//
// The command finds the URL of a fresh database in the variable NAME. Its exit status is passed on.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"ops_worker/db"
	"ops_worker/internal/pgserver"
	"ops_worker/internal/schema"
)

// statusFailed is the exit status when the command could not be run at all; flag itself uses 2 for wrong usage.
const statusFailed = 125

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "with-postgres:", err)
	}
	os.Exit(status)
}

func run(args []string) (int, error) {
	flags := flag.NewFlagSet("with-postgres", flag.ContinueOnError)
	variable := flags.String("env", "DATABASE_URL", "the `variable` that carries the database's URL")
	migrate := flags.Bool("migrate", false, "apply the migrations first")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0, nil
	} else if err != nil {
		return 2, nil // flag has said why
	}
	if flags.NArg() == 0 {
		return 2, errors.New("no command given")
	}

	// A Ctrl-C reaches the command by itself, as it is in the same process group; here it must only not end the process
	// before the server. A SIGTERM is passed on.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	server, err := pgserver.Start(ctx, pgserver.StartDocker)
	if err != nil {
		return statusFailed, err
	}
	status, err := runCommand(ctx, server, *variable, *migrate, flags.Args())
	return status, errors.Join(err, server.Close())
}

func runCommand(ctx context.Context, server *pgserver.Server, variable string, migrate bool, args []string) (int, error) {
	// An external server may have databases of other processes.
	database := fmt.Sprintf("with_postgres_%d", os.Getpid())
	if err := server.Create(ctx, database); err != nil {
		return statusFailed, err
	}
	if migrate {
		if err := migrateUp(ctx, server.URL(database)); err != nil {
			return statusFailed, errors.Join(err, server.Drop(context.WithoutCancel(ctx), database))
		}
	}
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = append(os.Environ(), variable+"="+server.URL(database))
	err := command.Run()
	dropped := server.Drop(context.WithoutCancel(ctx), database)

	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, dropped
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), dropped // the command has said why
	default:
		return statusFailed, errors.Join(fmt.Errorf("run %s: %w", args[0], err), dropped)
	}
}

func migrateUp(ctx context.Context, address string) error {
	pool, err := db.Open(ctx, db.Options{URL: address, MaxConns: 1, ConnectTimeout: pgserver.StepTimeout, ApplicationName: "with-postgres"})
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = schema.MigrateUp(ctx, pool)
	return err
}

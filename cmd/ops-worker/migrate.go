package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

func newMigrateCommand(load loader) *cobra.Command {
	migrate := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema up to date, take it back, or show it",
		Args:  knownCommand,
		RunE:  subcommandWanted,
	}
	migrate.AddCommand(newMigrateUpCommand(load), newMigrateDownCommand(load), newMigrateStatusCommand(load))
	return migrate
}

// anyDatabaseFlag adds the flag of commands that make tables.
func anyDatabaseFlag(flags *pflag.FlagSet, anyDatabase *bool) {
	flags.BoolVar(anyDatabase, "any-database", false, "accept a database that holds tables, and none of the platform's")
}

func newMigrateUpCommand(load loader) *cobra.Command {
	var anyDatabase bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Apply the migrations and make sure of the platform's tables and role",
		Long: "Applies the migrations and makes sure of the tables and the role that the platform's\n" +
			"system routes read, as every start of the worker does. Exits 1 where one of these\n" +
			"could not be made.",
		Args: cobra.NoArgs,
	}
	cmd.RunE = withDatabase(load, func(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
		changes, err := schema.MigrateUp(ctx, pool, anyDatabase)
		for _, c := range changes {
			if c.Failed() {
				err = errors.Join(err, fmt.Errorf("%s could not be made: %s", c.Object, c.Detail))
			}
		}
		return refusal(errors.Join(printChanges(out, changes, err, "nothing to do"), err))
	})
	anyDatabaseFlag(cmd.Flags(), &anyDatabase)
	return cmd
}

func newMigrateDownCommand(load loader) *cobra.Command {
	var options schema.DownOptions
	var yes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take back the newest migration; with --all every one, and the samples with them",
		Long: "Takes back the newest migration, or with --all every one. It refuses while a worker\n" +
			"collects, which would make the tables again, and on a terminal it asks before --all.",
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if options.All && !yes && isTerminal(c.InOrStdin()) &&
			!confirmed(c.Context(), c.InOrStdin(), c.ErrOrStderr(), "This drops service_health and system_metrics with every sample. Go on? [y/N] ") {
			return errors.New("nothing was taken back")
		}
		return withDatabase(load, func(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
			changes, err := schema.Down(ctx, pool, options)
			return errors.Join(printChanges(out, changes, err, "nothing to take back"), err)
		})(c, args)
	}
	cmd.Flags().BoolVar(&options.All, "all", false, "take back every migration: service_health and system_metrics are dropped")
	cmd.Flags().BoolVar(&options.Force, "force", false, "also while a worker collects")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func newMigrateStatusCommand(load loader) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the migrations and when they were applied",
		Long:  "Lists the migrations and when they were applied. It only reads, and takes no lock.",
		Args:  cobra.NoArgs,
		RunE: withDatabase(load, func(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error {
			states, err := schema.Status(ctx, pool)
			if err != nil {
				return err
			}
			return printTable(out, []string{"MIGRATION", "APPLIED"}, len(states), func(i int) []any {
				name, applied := states[i].Name, "pending"
				if name == "" {
					name = fmt.Sprintf("%05d, of a newer ops-worker", states[i].Version)
				}
				if states[i].Applied() {
					applied = states[i].AppliedAt.UTC().Format(time.RFC3339)
				}
				return []any{name, applied}
			})
		}),
	}
}

// withDatabase is a command on a pool of its own. A command that is no loop does not wait for a database that is away.
func withDatabase(load loader, fn func(ctx context.Context, pool *pgxpool.Pool, out io.Writer) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return withPool(cmd.Context(), db.OptionsFrom(cfg.Database, cfg.ServiceName), func(pool *pgxpool.Pool) error { return fn(cmd.Context(), pool, cmd.OutOrStdout()) })
	}
}

// refusal gives a database that is refused the exit status of a wrong setting.
func refusal(err error) error {
	if schema.IsRefused(err) {
		return &exitError{exitUsage, err}
	}
	return err
}

// printChanges prints what was done, also before an error.
func printChanges(out io.Writer, changes []schema.Change, err error, none string) error {
	if len(changes) == 0 {
		if err != nil {
			return nil
		}
		_, err := fmt.Fprintln(out, none)
		return err
	}
	return printTable(out, []string{"OBJECT", "ACTION", "DETAIL"}, len(changes), func(i int) []any {
		return []any{changes[i].Object, changes[i].Action, changes[i].Detail}
	})
}

func isTerminal(in any) bool {
	file, ok := in.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// confirmed asks, and takes anything but yes for no, a signal too.
func confirmed(ctx context.Context, in io.Reader, out io.Writer, question string) bool {
	fmt.Fprint(out, question)
	answers := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(in).ReadString('\n')
		answers <- answer
	}()
	select {
	case answer := <-answers:
		return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer)))
	case <-ctx.Done():
		return false
	}
}

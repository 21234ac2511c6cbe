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
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"ops_worker/internal/schema"
)

func newMigrateCommand(load loader) *cobra.Command {
	migrate := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema up to date, take it back, or show it",
		RunE:  wantsCommand("migrate wants a command: up, down, status"),
	}
	migrate.AddCommand(newMigrateUpCommand(load), newMigrateDownCommand(load), newMigrateStatusCommand(load))
	return migrate
}

// anyDatabaseFlag adds the flag of commands that make tables.
func anyDatabaseFlag(flags *pflag.FlagSet, anyDatabase *bool) {
	flags.BoolVar(anyDatabase, "any-database", false, "accept a database that holds tables, but none of the platform's")
}

func newMigrateUpCommand(load loader) *cobra.Command {
	var anyDatabase bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Apply the migrations and make sure of the platform's tables and role",
		Long: "Applies the migrations and makes sure of the tables and the role that the platform's\n" +
			"system routes read, as every start of the worker does. Exits 1 if one of these could\n" +
			"not be made.",
		Args: cobra.NoArgs,
	}
	cmd.RunE = withDatabase(load, func(cmd *cobra.Command, _ []string, pool *pgxpool.Pool) error {
		changes, err := schema.MigrateUp(cmd.Context(), pool, anyDatabase)
		for _, c := range changes {
			if c.Failed() {
				err = errors.Join(err, fmt.Errorf("%s could not be made: %s", c.Object, c.Detail))
			}
		}
		return printChanges(cmd.OutOrStdout(), changes, err, "nothing to do")
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
		Long: "Takes back the newest migration, or all of them with --all. It refuses while a worker\n" +
			"collects, because the worker would make the tables again. On a terminal it asks before\n" +
			"--all.",
		Args: cobra.NoArgs,
	}
	take := withDatabase(load, func(cmd *cobra.Command, _ []string, pool *pgxpool.Pool) error {
		changes, err := schema.Down(cmd.Context(), pool, options)
		return printChanges(cmd.OutOrStdout(), changes, err, "nothing to take back")
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if options.All && !yes && isTerminal(cmd.InOrStdin()) &&
			!confirmed(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr(), "This drops service_health and system_metrics with every sample. Go on? [y/N] ") {
			return errors.New("nothing was taken back")
		}
		return take(cmd, args)
	}
	cmd.Flags().BoolVar(&options.All, "all", false, "take back every migration: service_health and system_metrics are dropped")
	cmd.Flags().BoolVar(&options.Force, "force", false, "also while a worker collects")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func newMigrateStatusCommand(load loader) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the migrations and when they were applied, without a lock",
		Args:  cobra.NoArgs,
		RunE: withDatabase(load, func(cmd *cobra.Command, _ []string, pool *pgxpool.Pool) error {
			states, err := schema.Status(cmd.Context(), pool)
			if err != nil {
				return err
			}
			table := newTable(cmd.OutOrStdout())
			fmt.Fprintln(table, "MIGRATION\tAPPLIED")
			for _, s := range states {
				name, applied := s.Name, "pending"
				if name == "" {
					name = fmt.Sprintf("%05d, of a newer ops-worker", s.Version)
				}
				if s.Applied() {
					applied = s.AppliedAt.UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(table, "%s\t%s\n", name, applied)
			}
			return table.Flush()
		}),
	}
}

// printChanges prints what was done, also before err, and returns err.
func printChanges(out io.Writer, changes []schema.Change, err error, none string) error {
	table := newTable(out)
	if len(changes) > 0 {
		fmt.Fprintln(table, "OBJECT\tACTION\tDETAIL")
	} else if err == nil {
		fmt.Fprintln(table, none)
	}
	for _, c := range changes {
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.Object, c.Action, c.Detail)
	}
	return errors.Join(table.Flush(), err)
}

func isTerminal(of any) bool {
	file, ok := of.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
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

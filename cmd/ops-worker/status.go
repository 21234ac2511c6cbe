package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ops_worker/internal/config"
	"ops_worker/internal/status"
)

// leastWait is the shortest --every: each reading costs the database some tens of
// milliseconds.
const leastWait = time.Second

func newStatusCommand(load loader, environ []string) *cobra.Command {
	var asJSON, watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the platform is, from the database alone",
		Long: "Shows the platform from the database alone, so also while the API is down: which worker\n" +
			"collects, the services, the open system alerts, the maintenance windows that are on, the\n" +
			"availability over 24 hours, 7 and 30 days, and the newest metrics with their last hour.\n" +
			"It only reads. If the role may not read a table, its section is left out. All ages are\n" +
			"by the database's clock.\n\n" +
			"With --watch it clears the terminal and prints again, as many lines as fit, until q or\n" +
			"Ctrl-C. Colour goes to a terminal alone, and not with NO_COLOR or TERM=dumb.\n\n" +
			"Exits 0 if it could be shown, however the platform is, 1 if the database could not be\n" +
			"read, 2 with wrong settings or arguments.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkWatch(cmd, watch, asJSON, every); err != nil {
				return &exitError{exitUsage, err.Error()}
			}
			cfg, err := load()
			if err != nil {
				return err
			}
			reader, err := status.Open(context.WithoutCancel(cmd.Context()), cfg)
			if err != nil {
				return err
			}
			defer reader.Close()
			out, plain := cmd.OutOrStdout(), config.PlainTerminal(environ)
			if watch {
				return status.Watch(cmd.Context(), reader.Read, cmd.InOrStdin().(*os.File), out.(*os.File), !plain, every)
			}
			report, err := reader.Read(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, report)
			}
			width := 120 // of a pipe
			if isTerminal(out) {
				if columns, _, err := term.GetSize(int(out.(*os.File).Fd())); err == nil && columns > 0 {
					width = columns
				}
			}
			return report.Print(out, width, isTerminal(out) && !plain)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&watch, "watch", false, "clear the terminal and print again and again")
	cmd.Flags().DurationVar(&every, "every", 5*time.Second, "with --watch, how often it reads")
	return cmd
}

// checkWatch refuses what --watch cannot do.
func checkWatch(cmd *cobra.Command, watch, asJSON bool, every time.Duration) error {
	switch {
	case !watch:
		return nil
	case asJSON:
		return errors.New("--json and --watch do not go together")
	case every < leastWait:
		return fmt.Errorf("--every must be at least %s", leastWait)
	case !isTerminal(cmd.InOrStdin()) || !isTerminal(cmd.OutOrStdout()):
		return errors.New("--watch needs a terminal; without it, status prints once")
	}
	return nil
}

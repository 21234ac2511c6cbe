package main

import (
	"github.com/spf13/cobra"

	"ops_worker/collectors"
	"ops_worker/internal/doctor"
)

func newDoctorCommand(load loader) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check everything around the worker and say what to do",
		Long: "Checks the settings, the database and the services, and that nothing else collects.\n" +
			"Run it before the cut-over, and when something looks wrong. Set the environment as\n" +
			"for the worker. It changes no data: what it writes is rolled back. It takes less than\n" +
			"30 seconds and prints no secret.\n\n" +
			"Exits 0 when all is well, 1 with warnings, 2 with failures.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load() // what is wrong with the settings is in the report
			report := doctor.Run(cmd.Context(), cfg, err, collectors.Aggregates)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				err = report.Print(cmd.OutOrStdout())
			}
			if err != nil {
				return err
			}
			if code := report.ExitCode(); code != exitOK {
				return &exitError{status: code}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

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
		Long: "Checks the settings, the database, the services, and that nothing else collects;\n" +
			"for before the cut-over and for when something looks wrong. It changes nothing (what\n" +
			"it tries of the worker's writes is rolled back), takes less than 30 seconds, and\n" +
			"prints no secret. Set the environment as for the worker.\n\n" +
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

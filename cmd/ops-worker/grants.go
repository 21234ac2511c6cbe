package main

import (
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

// grantsLimits bound each statement that reads what stands.
var grantsLimits = db.Limits{Statement: 10 * time.Second, Lock: 10 * time.Second}

func newGrantsCommand(load loader) *cobra.Command {
	return &cobra.Command{
		Use:   "grants ROLE",
		Short: "Print the SQL that lets a login role do what the worker does, and nothing else",
		Long: "Prints the SQL that gives a login role the rights that the worker needs, and no more.\n" +
			"It changes nothing: pipe it to psql, as a superuser or as the owner of the tables. The\n" +
			"tables must exist:\n\n" +
			"    ops-worker migrate up\n" +
			"    ops-worker grants ops_worker | psql --set ON_ERROR_STOP=1 \"$DATABASE_URL\"\n\n" +
			"Do so again after an upgrade.",
		Args: cobra.ExactArgs(1),
		RunE: withDatabase(load, func(cmd *cobra.Command, args []string, pool *pgxpool.Pool) error {
			var script string
			err := db.InTx(cmd.Context(), pool, db.Snapshot, grantsLimits, func(q *db.Queries) (err error) {
				script, err = schema.Grants(cmd.Context(), q, args[0])
				return err
			})
			if err == nil {
				_, err = io.WriteString(cmd.OutOrStdout(), script)
			}
			return err
		}),
	}
}

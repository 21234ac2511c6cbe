package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"ops_worker/db"
	"ops_worker/internal/humanize"
	"ops_worker/internal/schema"
)

// grantsLimit bounds each statement that reads what stands.
const grantsLimit = 10 * time.Second

func newGrantsCommand(load loader) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grants ROLE",
		Short: "Print the SQL that lets a login role do what the worker does, and nothing else",
		Long: "Prints the SQL that lets a login role do exactly what the worker does with these\n" +
			"settings, read off the statements that it runs. It changes nothing: pipe it to psql,\n" +
			"as a superuser or as the owner of the tables, which must stand:\n\n" +
			"  ops-worker migrate up\n" +
			"  ops-worker grants ops_worker | psql --set ON_ERROR_STOP=1 \"$DATABASE_URL\"\n\n" +
			"Do so again after an upgrade.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("grants wants one argument, the login role: ops-worker grants ROLE")
			}
			return nil
		},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load()
		if err != nil {
			return err
		}
		return withPool(cmd.Context(), cfg.DatabaseOptions(), func(pool *pgxpool.Pool) error {
			return printGrants(cmd.Context(), pool, args[0], cfg.DatabaseUses(), cmd.OutOrStdout())
		})
	}
	return cmd
}

func printGrants(ctx context.Context, pool *pgxpool.Pool, role string, uses schema.Uses, out io.Writer) error {
	var grants []schema.Grant
	if err := db.InTx(ctx, pool, db.Snapshot, grantsLimit, func(q *db.Queries) (err error) {
		grants, err = schema.Grants(ctx, q, role, uses)
		return err
	}); err != nil {
		return err
	}
	// Folded, so that a name of several lines ends no comment.
	var script strings.Builder
	fmt.Fprintf(&script, "-- What lets %s do what ops-worker %s does, and nothing else.\n", humanize.OneLine(role), version)
	for _, g := range grants {
		fmt.Fprintf(&script, "%s; -- %s\n", g.SQL, humanize.OneLine(strings.Join(g.For, ", ")))
	}
	_, err := io.WriteString(out, script.String())
	return err
}

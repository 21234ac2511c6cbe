package pgtest

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"ops_worker/internal/pgserver"
)

// OfferTimescale lets the database seem to have TimescaleDB on its server, preloaded and not installed: the extension is
// not to be had everywhere. To make it fails.
func (d *Database) OfferTimescale(tb testing.TB) {
	tb.Helper()
	var real bool
	err := pgserver.Execute(tb.Context(), d.URL, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')").Scan(&real)
	})
	if err != nil {
		tb.Fatal(err)
	}
	if real {
		tb.Skip("this server has TimescaleDB itself")
	}
	d.Exec(tb, `SET allow_system_table_mods = on;
		CREATE OR REPLACE VIEW pg_catalog.pg_available_extensions AS
		SELECT 'timescaledb'::name AS name, '2.28.3'::text AS default_version, NULL::text COLLATE "C" AS installed_version, ''::text AS comment`)
	d.Exec(tb, fmt.Sprintf("ALTER DATABASE %q SET timescaledb.disable_load = off", d.Name))
}

// WithdrawTimescale takes that back, for connections from now on.
func (d *Database) WithdrawTimescale(tb testing.TB) {
	tb.Helper()
	d.Exec(tb, fmt.Sprintf("ALTER DATABASE %q RESET timescaledb.disable_load", d.Name))
}

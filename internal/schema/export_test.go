package schema

import (
	"context"

	"ops_worker/db"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// EnsurePlatformOnServer makes sure of the platform's tables as on a server of
// another version, which is not to be had everywhere.
func EnsurePlatformOnServer(ctx context.Context, pool *pgxpool.Pool, version int32) ([]Change, error) {
	var e ensurer
	err := db.Transaction(ctx, pool, db.ReadWrite, atStart.limits, func(tx pgx.Tx) (err error) {
		e = ensurer{tx: tx, q: db.New(tx)}
		if e.server, err = e.q.DescribeServer(ctx); err != nil {
			return err
		}
		e.server.VersionNum = version
		if err := e.look(ctx); err != nil {
			return err
		}
		return e.ensureStandIns(ctx)
	})
	return e.changes, err
}

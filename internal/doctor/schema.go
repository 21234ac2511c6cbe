package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

// migrationState compares the migrations in this binary with those applied.
type migrationState struct {
	never   bool
	newest  int64 // in this binary
	pending []int64
	newer   []int64
}

func (r *run) migrated(ctx context.Context) (migrationState, error) {
	return r.migrations.get(func() (state migrationState, err error) {
		var list []schema.MigrationState
		if err = r.read(ctx, func(q *db.Queries) error {
			list, err = schema.Migrations(ctx, q)
			return err
		}); err != nil {
			return state, err
		}
		state.never = true
		for _, m := range list {
			state.never = state.never && !m.Applied()
			switch {
			case m.Name == "":
				state.newer = append(state.newer, m.Version)
			case !m.Applied():
				state.pending = append(state.pending, m.Version)
			}
			if m.Name != "" {
				state.newest = max(state.newest, m.Version)
			}
		}
		return state, nil
	})
}

// pending reports whether migrations are known to be pending.
func (r *run) pending(ctx context.Context) bool {
	state, err := r.migrated(ctx)
	return err == nil && len(state.pending) > 0
}

func checkSchema(ctx context.Context, r *run, f *findings) error {
	err := r.read(ctx, func(q *db.Queries) error { return schema.RefuseElsewhere(ctx, q) })
	var elsewhere *schema.ElsewhereError
	if errors.As(err, &elsewhere) {
		f.fail("", "%s", elsewhere)
	} else if err != nil {
		return err
	}
	state, err := r.migrated(ctx)
	var hidden *schema.RowSecurityError
	if errors.As(err, &hidden) {
		f.fail(hidden.Advice(), "row-level security hides from %s which migrations are applied", r.server.LoginRole)
		return nil
	}
	if err != nil {
		return err
	}
	const apply = "nothing, if the worker is about to be started: it applies them; else `ops-worker migrate up`"
	switch {
	case state.never:
		f.warn(apply, "never migrated: all %d migrations are pending", state.newest)
	case len(state.pending) > 0:
		f.warn(apply, "pending: migration %s of %d", list(state.pending), state.newest)
	}
	if len(state.newer) > 0 {
		f.warn("use the newer ops-worker that migrated this database, here and wherever it runs",
			"migration %s was applied by a newer ops-worker; this one knows %d", list(state.newer), state.newest)
	}
	if f.result == OK {
		f.note("version %d, nothing is pending", state.newest)
	}
	return nil
}

// checkMigrator looks whether the platform's migrator has applied its files, or
// believes that it has.
func checkMigrator(ctx context.Context, r *run, f *findings) error {
	var found schema.Settlement
	if err := r.read(ctx, func(q *db.Queries) (err error) {
		found, err = schema.FindSettlement(ctx, q)
		return err
	}); err != nil {
		return err
	}
	switch {
	case found.Platform:
		f.note("tables of the platform stand that it made itself")
	case found.Ruined():
		f.fail(found.Repair()+" and run the platform's migrator again: it goes on from the tables that stand",
			"the platform's tables are missing, or as ops_worker made them: it has noted %d files and run none, as it does where it finds tables and no note", found.Files)
	case found.WouldRuin():
		f.warn("`ops-worker migrate up`, or a start of the worker, leaves a mark in "+schema.MigratorTable+" that keeps it from that",
			"the platform's migrator would take this database for one that it has migrated, and run none of its files")
	case found.Unreadable:
		f.note("%s may not read %s", r.server.LoginRole, schema.MigratorTable)
	case found.Marked:
		f.note("it has not run yet; ops_worker's mark lets it apply all its files")
	default:
		f.note("it has not run yet")
	}
	return nil
}

func list[T any](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, ", ")
}

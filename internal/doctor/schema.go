package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"ops_worker/db"
	"ops_worker/migrations"
)

// migrationState compares the migrations in this binary with those applied.
type migrationState struct {
	known, applied []int64
	never          bool
	pending, newer []int64
}

func (r *run) migrated(ctx context.Context) (migrationState, error) {
	return r.migrations.get(func() (state migrationState, err error) {
		if state.known, err = knownMigrations(); err != nil {
			return state, err
		}
		state.applied, state.never, err = r.appliedMigrations(ctx)
		if err != nil {
			return state, err
		}
		missing := func(in []int64) func(int64) bool { return func(v int64) bool { return slices.Contains(in, v) } }
		state.pending = slices.DeleteFunc(slices.Clone(state.known), missing(state.applied))
		state.newer = slices.DeleteFunc(slices.Clone(state.applied), missing(state.known))
		return state, nil
	})
}

// appliedMigrations reads goose's table; never is true where goose has made none.
func (r *run) appliedMigrations(ctx context.Context) (applied []int64, never bool, err error) {
	err = r.read(ctx, func(q *db.Queries) error {
		rows, err := q.DescribeRelations(ctx, []string{db.VersionTable})
		if never = len(rows) == 0; never || err != nil {
			return err
		}
		applied, err = q.AppliedMigrations(ctx)
		return err
	})
	return applied, never, err
}

// pending reports whether migrations are known to be pending.
func (r *run) pending(ctx context.Context) bool {
	state, err := r.migrated(ctx)
	return err == nil && len(state.pending) > 0
}

// knownMigrations are the versions of the migrations in this binary.
func knownMigrations() ([]int64, error) {
	files, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	versions := make([]int64, len(files))
	for i, file := range files {
		number, _, _ := strings.Cut(file, "_")
		if versions[i], err = strconv.ParseInt(number, 10, 64); err != nil {
			return nil, fmt.Errorf("read the number of migration %s: %w", file, err)
		}
	}
	slices.Sort(versions)
	return versions, nil
}

func checkSchema(ctx context.Context, r *run, f *findings) error {
	state, err := r.migrated(ctx)
	if err != nil {
		return err
	}
	newest := state.known[len(state.known)-1]
	const apply = "nothing, if the worker is about to be started: it applies them; else `ops-worker migrate up`"
	switch {
	case state.never:
		f.warn(apply, "never migrated: %s does not exist, all %d migrations are pending", db.VersionTable, len(state.known))
	case len(state.pending) > 0:
		f.warn(apply, "pending: migration %s of %d", list(state.pending), newest)
	}
	if len(state.newer) > 0 {
		f.warn("use the newer ops-worker that migrated this database, here and wherever it runs",
			"migration %s was applied by a newer ops-worker; this one knows %d", list(state.newer), newest)
	}
	if f.result == OK {
		f.note("version %d, nothing is pending", newest)
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

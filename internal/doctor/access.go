package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

// checkRole shows who the worker is to the database, and looks at the role that the
// platform's routes take on.
func checkRole(ctx context.Context, r *run, f *findings) error {
	login, platform := r.connection.server.LoginRole, ""
	err := r.database.read(ctx, func(q *db.Queries) (err error) {
		if r.role, err = q.DoctorRole(ctx); err != nil {
			return err
		}
		platform, err = q.EnterPlatformScope(ctx)
		return err
	})
	if err != nil {
		return err
	}
	power := "neither superuser nor BYPASSRLS"
	switch {
	case r.role.Superuser:
		power = "superuser"
	case r.role.BypassRls:
		power = "BYPASSRLS"
	}
	as := "itself"
	if platform != login {
		as = platform + ", past row-level security"
	}
	f.note("%s: %s, reads the platform's tables as %s", login, power, as)

	const routes = "/operator/system/aggregates, /errors and /metrics"
	switch {
	case !r.role.OperatorExists && r.role.Superuser:
		f.warn(startMakesIt, "the role %s does not exist yet, and %s need it", schema.OperatorRole, routes)
	case !r.role.OperatorExists:
		f.fail("as a superuser: `ops-worker migrate up`, and GRANT it to the API's login role", "the role %s does not exist, and %s fail without it", schema.OperatorRole, routes)
	case !r.role.OperatorBypasses:
		f.warn(fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS;", schema.OperatorRole),
			"%s has no BYPASSRLS: where row-level security is on, %s count 0 rows without an error", schema.OperatorRole, routes)
	case !r.role.OperatorGranted:
		f.note("%s may not take on %s, so the rights of the routes are not looked at", login, schema.OperatorRole)
	}
	return nil
}

// checkDatabase looks whether the worker takes this database at all.
func checkDatabase(ctx context.Context, r *run, f *findings) error {
	err := r.database.read(ctx, func(q *db.Queries) error { return schema.Refuse(ctx, q, false) })
	var hidden *schema.RowSecurityError
	r.refused = errors.As(err, &hidden) || schema.IsRefused(err)
	switch {
	case hidden != nil:
		f.fail(hidden.Advice(), "row-level security hides rows of the worker's own tables from %s", r.connection.server.LoginRole)
	case schema.IsRefused(err):
		f.fail("", "%s", err)
	case err != nil:
		return err
	default:
		f.note("one that the worker takes")
	}
	return nil
}

// checkSchema looks whether the worker's migrations are applied.
func checkSchema(ctx context.Context, r *run, f *findings) error {
	var migrations []schema.MigrationState
	err := r.database.read(ctx, func(q *db.Queries) (err error) {
		migrations, err = schema.Migrations(ctx, q)
		return err
	})
	if err != nil {
		return err
	}
	var known, pending, newer []string
	for _, m := range migrations {
		version := fmt.Sprint(m.Version)
		switch {
		case m.Name == "":
			newer = append(newer, version)
			continue
		case !m.Applied():
			pending = append(pending, version)
		}
		known = append(known, version)
	}
	r.pending = len(pending) > 0
	switch {
	case r.pending && !r.role.CreatesTables:
		f.fail("as the owner of the tables: `ops-worker migrate up`; then "+r.grants(),
			"pending: migration %s of %d, and %s may not create tables in the schema public", strings.Join(pending, ", "), len(known), r.connection.server.LoginRole)
	case len(pending) == len(known):
		f.warn(startMakesIt, "never migrated: all %d migrations are pending", len(known))
	case r.pending:
		f.warn(startMakesIt, "pending: migration %s of %d", strings.Join(pending, ", "), len(known))
	case len(newer) == 0:
		f.note("version %d, nothing is pending", len(known))
	}
	if len(newer) > 0 {
		f.warn("use the newer ops-worker that migrated this database, here and wherever it runs",
			"migration %s was applied by a newer ops-worker; this one knows %d", strings.Join(newer, ", "), len(known))
	}
	return nil
}

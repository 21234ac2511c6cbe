package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
)

// operator is the role that the platform's routes take on.
const operator = "pulse_operator"

func (x *examination) sessionRole(ctx context.Context) (db.DescribeSessionRow, error) {
	return x.session.get(ctx, x, func(ctx context.Context, q *db.Queries) (db.DescribeSessionRow, error) {
		return q.DescribeSession(ctx)
	})
}

func (x *examination) roles(ctx context.Context) (db.DoctorRoleRow, error) {
	return x.role.get(ctx, x, func(ctx context.Context, q *db.Queries) (db.DoctorRoleRow, error) {
		return q.DoctorRole(ctx)
	})
}

// alertWriter is the role in which the worker writes system alerts.
func (x *examination) alertWriter(ctx context.Context) (string, error) {
	return x.alertRole.get(ctx, x, func(ctx context.Context, q *db.Queries) (string, error) {
		row, err := q.EnterAlertScope(ctx)
		return row.Role, err
	})
}

func checkRole(ctx context.Context, x *examination, f *findings) error {
	session, err := x.sessionRole(ctx)
	if err != nil {
		return err
	}
	roles, err := x.roles(ctx)
	if err != nil {
		return err
	}
	power := "neither superuser nor BYPASSRLS"
	switch {
	case session.Superuser:
		power = "superuser"
	case session.BypassRls:
		power = "BYPASSRLS"
	}
	as := "itself"
	if session.ScopeRole != session.LoginRole {
		as = session.ScopeRole
	}
	f.note("%s: %s, reads the platform's tables as %s", session.LoginRole, power, as)

	const routes = "/operator/system/aggregates, /errors and /metrics"
	switch {
	case !roles.OperatorExists && session.Superuser && x.pending(ctx):
		f.warn("nothing, if the worker is about to be started: it makes the role; else `ops-worker migrate up`",
			"the role %s does not exist yet, and %s need it", operator, routes)
	case !roles.OperatorExists:
		f.fail(fmt.Sprintf("as a superuser: CREATE ROLE %s NOLOGIN BYPASSRLS; GRANT %[1]s TO %s; and to the API's login role; then `ops-worker migrate up` grants it what the routes read", operator, ident(roles.LoginRole)),
			"the role %s does not exist, and %s fail without it", operator, routes)
	case !roles.OperatorBypasses:
		f.warn(fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS;", operator),
			"%s has no BYPASSRLS: where row-level security is on, %s count 0 rows without an error", operator, routes)
	case !roles.OperatorUsesSchema && roles.Schema != "":
		f.fail(fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", ident(roles.Schema), operator),
			"%s may not use the schema %s, so %s fail", operator, roles.Schema, routes)
	}
	if roles.Schema == "" {
		f.fail(fmt.Sprintf("GRANT USAGE ON SCHEMA public TO %s; or set its search_path", ident(roles.LoginRole)),
			"no schema of %s's search_path exists and may be used by it", roles.LoginRole)
	}
	return nil
}

// wanted gathers privileges that must be there.
type wanted struct{ params db.DoctorPrivilegesParams }

func (w *wanted) add(role, relation string, privileges ...string) {
	for _, p := range privileges {
		w.params.Roles = append(w.params.Roles, role)
		w.params.Relations = append(w.params.Relations, relation)
		w.params.Privileges = append(w.params.Privileges, p)
	}
}

func checkPrivileges(ctx context.Context, x *examination, f *findings) error {
	session, err := x.sessionRole(ctx)
	if err != nil {
		return err
	}
	roles, err := x.roles(ctx)
	if err != nil {
		return err
	}
	stand, err := x.standing(ctx)
	if err != nil {
		return err
	}

	login := session.LoginRole
	var w wanted
	w.add(login, "service_health", "SELECT", "INSERT", "UPDATE")
	w.add(login, "system_metrics", "SELECT", "INSERT")
	if x.cfg.MetricsRetention > 0 {
		w.add(login, "system_metrics", "DELETE")
	}
	w.add(login, leaseTable, "SELECT", "INSERT", "UPDATE")
	w.add(login, versionTable, "SELECT")
	for _, name := range sampled {
		w.add(session.ScopeRole, behind(stand, name), "SELECT")
	}
	alertRole := ""
	if x.cfg.SystemAlerts {
		if alertRole, err = x.alertWriter(ctx); err != nil {
			return err
		}
		w.add(alertRole, "fleet_alert", "SELECT", "INSERT", "UPDATE")
		w.add(alertRole, "tenants", "INSERT")
	}
	for _, r := range relations {
		if r.routes {
			w.add(operator, r.name, "SELECT")
			w.add(operator, behind(stand, r.name), "SELECT")
		}
	}

	var sequence db.DoctorSequenceRow
	var missing []db.DoctorPrivilegesRow
	err = x.read(ctx, func(q *db.Queries) (err error) {
		if missing, err = q.DoctorPrivileges(ctx, w.params); err != nil || alertRole == "" {
			return err
		}
		sequence, err = q.DoctorSequence(ctx, alertRole)
		if db.IsNoRows(err) {
			sequence.Usable, err = true, nil
		}
		return err
	})
	if err != nil {
		return err
	}

	type place struct{ role, relation string }
	var places []place
	lacking := map[place][]string{}
	for _, m := range missing {
		p := place{m.Role, m.Relation}
		if lacking[p] == nil {
			places = append(places, p)
		}
		if !slices.Contains(lacking[p], m.Privilege) {
			lacking[p] = append(lacking[p], m.Privilege)
		}
	}
	for _, p := range places {
		privileges := strings.Join(lacking[p], ", ")
		f.fail(fmt.Sprintf("GRANT %s ON %s TO %s;", privileges, p.relation, ident(p.role)),
			"%s lacks %s on %s (%s)", p.role, privileges, p.relation, usedBy(p.relation))
	}
	if alertRole != "" && !sequence.Usable {
		f.fail(fmt.Sprintf("GRANT USAGE ON SEQUENCE %s TO %s;", sequence.Name, ident(alertRole)),
			"%s may not draw from %s, so no system alert can be opened", alertRole, sequence.Name)
	}
	if !roles.CreatesTables && x.pending(ctx) {
		f.fail(fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA %s TO %s; or run `ops-worker migrate up` once as a role that may", ident(cmp.Or(roles.Schema, "public")), ident(login)),
			"%s may not create tables in the schema %s, and migrations are pending", login, cmp.Or(roles.Schema, "public"))
	}
	if f.result == OK {
		f.note("%s may write what the worker writes and read what it reads", login)
	}
	if f.result == OK && roles.OperatorExists {
		f.note("%s may read what the routes read", operator)
	}
	return nil
}

// checkRowSecurity takes on the roles that the worker takes on and asks the
// server whether policies would bind them.
func checkRowSecurity(ctx context.Context, x *examination, f *findings) error {
	session, err := x.sessionRole(ctx)
	if err != nil {
		return err
	}
	roles, err := x.roles(ctx)
	if err != nil {
		return err
	}
	stand, err := x.standing(ctx)
	if err != nil {
		return err
	}
	platform := make([]string, len(sampled))
	for i, name := range sampled {
		platform[i] = behind(stand, name)
	}
	routes := map[string]bool{}
	for _, r := range relations {
		if r.routes {
			routes[behind(stand, r.name)] = true
		}
	}

	var read, alerts, own, all []db.DoctorPoliciesRow
	if err := x.read(ctx, func(q *db.Queries) (err error) {
		if own, err = q.DoctorPolicies(ctx, []string{"service_health", "system_metrics", leaseTable}); err != nil {
			return err
		}
		all, err = q.DoctorPolicies(ctx, slices.Sorted(maps.Keys(routes)))
		return err
	}); err != nil {
		return err
	}
	if err := x.read(ctx, func(q *db.Queries) error {
		if _, err := q.EnterPlatformScope(ctx); err != nil {
			return scopeError(session.ScopeRole, err)
		}
		read, err = q.DoctorPolicies(ctx, platform)
		return err
	}); err != nil {
		return err
	}
	alertRole := ""
	if x.cfg.SystemAlerts {
		if alertRole, err = x.alertWriter(ctx); err != nil {
			return scopeError(operator, err)
		}
		if err := x.read(ctx, func(q *db.Queries) error {
			if _, err := q.EnterAlertScope(ctx); err != nil {
				return scopeError(operator, err)
			}
			alerts, err = q.DoctorPolicies(ctx, []string{"fleet_alert", "tenants"})
			return err
		}); err != nil {
			return err
		}
	}

	for _, p := range own {
		if p.Binding {
			f.fail(fmt.Sprintf("ALTER TABLE %s DISABLE ROW LEVEL SECURITY; (it is the worker's own table)", p.Name),
				"%s: row-level security binds %s, which writes it", p.Name, session.LoginRole)
		}
	}
	for _, p := range read {
		if p.Binding {
			f.fail(operatorAdvice(roles, session.LoginRole),
				"%s: row-level security is %s and hides rows from %s, so its samples are not stored (%s)", p.Name, kindOf(p), session.ScopeRole, usedBy(p.Name))
		}
	}
	for _, p := range alerts {
		if p.Binding {
			advice := operatorAdvice(roles, session.LoginRole)
			if roles.OperatorBypasses && roles.OperatorGranted {
				// Then it is taken on as soon as it may write alerts.
				advice = fmt.Sprintf("GRANT INSERT, UPDATE ON fleet_alert TO %s; GRANT INSERT ON tenants TO %[1]s; GRANT USAGE ON SEQUENCE fleet_alert_id_seq TO %[1]s;", operator)
			}
			f.fail(advice, "%s: row-level security is %s and binds %s, so system alerts are not written", p.Name, kindOf(p), alertRole)
		}
	}
	var enabled []string
	for _, p := range all {
		if p.Enabled {
			enabled = append(enabled, p.Name)
		}
	}
	if len(enabled) > 0 && roles.OperatorExists && !roles.OperatorBypasses {
		f.fail(fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS;", operator),
			"%s is bound by the policies of %s: the routes count 0 rows there", operator, strings.Join(enabled, ", "))
	}
	switch {
	case f.result != OK:
	case len(enabled) == 0:
		f.note("on none of the tables that are read")
	default:
		f.note("on %s; the worker reads past it as %s", strings.Join(enabled, ", "), session.ScopeRole)
	}
	return nil
}

// scopeError explains a role that cannot be taken on although it was granted,
// as PostgreSQL 16 and later allow (WITH SET FALSE).
func scopeError(role string, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" {
		return fmt.Errorf("the login role is a member of %s and may still not take it on; GRANT it WITH SET TRUE: %w", role, err)
	}
	return err
}

func kindOf(p db.DoctorPoliciesRow) string {
	if p.Forced {
		return "forced"
	}
	return "enabled"
}

// operatorAdvice is how to let the worker read past the policies.
func operatorAdvice(roles db.DoctorRoleRow, login string) string {
	grant := fmt.Sprintf("GRANT %s TO %s;", operator, ident(login))
	switch {
	case !roles.OperatorExists:
		return fmt.Sprintf("as a superuser: CREATE ROLE %s NOLOGIN BYPASSRLS; %s", operator, grant)
	case !roles.OperatorBypasses:
		return fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS; %s", operator, grant)
	}
	return grant
}

var plainIdent = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// ident is a name as SQL has it, quoted where it must be.
func ident(name string) string {
	if plainIdent.MatchString(name) {
		return name
	}
	return pgx.Identifier{name}.Sanitize()
}

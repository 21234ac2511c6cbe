package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

// session is who the worker is to the database.
type session struct {
	db.DescribeSessionRow
	platformRole string // in which it reads and writes the platform's tables
}

func (r *run) sessionRole(ctx context.Context) (session, error) {
	return r.session.get(func() (s session, err error) {
		err = r.read(ctx, func(q *db.Queries) error {
			if s.DescribeSessionRow, err = q.DescribeSession(ctx); err != nil {
				return err
			}
			s.platformRole, err = q.EnterPlatformScope(ctx)
			return err
		})
		return s, err
	})
}

func (r *run) roles(ctx context.Context) (db.DoctorRoleRow, error) {
	return r.role.get(func() (found db.DoctorRoleRow, err error) {
		err = r.read(ctx, func(q *db.Queries) error {
			found, err = q.DoctorRole(ctx)
			return err
		})
		return found, err
	})
}

// access is what decides who may do what.
type access struct {
	session
	roles    db.DoctorRoleRow
	stands   map[string]schema.Relation
	refusals []refusal
}

func (r *run) access(ctx context.Context) (a access, err error) {
	if a.session, err = r.sessionRole(ctx); err != nil {
		return a, err
	}
	if a.roles, err = r.roles(ctx); err != nil {
		return a, err
	}
	if a.stands, err = r.standing(ctx); err != nil {
		return a, err
	}
	a.refusals, err = r.refusals(ctx)
	return a, err
}

func checkRole(ctx context.Context, r *run, f *findings) error {
	session, err := r.sessionRole(ctx)
	if err != nil {
		return err
	}
	roles, err := r.roles(ctx)
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
	if session.platformRole != session.LoginRole {
		as = session.platformRole
	}
	f.note("%s: %s, reads the platform's tables as %s", session.LoginRole, power, as)

	const routes = "/operator/system/aggregates, /errors and /metrics"
	switch {
	case !roles.OperatorExists && session.Superuser && r.pending(ctx):
		f.warn("nothing, if the worker is about to be started: it makes the role; else `ops-worker migrate up`",
			"the role %s does not exist yet, and %s need it", schema.OperatorRole, routes)
	case !roles.OperatorExists:
		f.fail(fmt.Sprintf("as a superuser: CREATE ROLE %s NOLOGIN BYPASSRLS; GRANT %[1]s TO %s; and to the API's login role; then `ops-worker migrate up` grants it what the routes read", schema.OperatorRole, schema.Ident(roles.LoginRole)),
			"the role %s does not exist, and %s fail without it", schema.OperatorRole, routes)
	case !roles.OperatorBypasses:
		f.warn(fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS;", schema.OperatorRole),
			"%s has no BYPASSRLS: where row-level security is on, %s count 0 rows without an error", schema.OperatorRole, routes)
	case !roles.OperatorUsesSchema && roles.UsesSchema:
		f.fail(fmt.Sprintf("GRANT USAGE ON SCHEMA public TO %s;", schema.OperatorRole),
			"%s may not use the schema public, so %s fail", schema.OperatorRole, routes)
	case !roles.OperatorGranted:
		f.warn(r.grantOperator(roles.LoginRole)+" unless the API logs in as another role, which has it",
			"%s may not take on %s: where the API logs in as it, %s fail", roles.LoginRole, schema.OperatorRole, routes)
	}
	if !roles.UsesSchema {
		f.fail(fmt.Sprintf("GRANT USAGE ON SCHEMA public TO %s;", schema.Ident(roles.LoginRole)),
			"%s may not use the schema public, or there is none", roles.LoginRole)
	}
	return nil
}

// lacking gathers rights that roles lack.
type lacking struct {
	users
	rights map[string][]string // by "role relation"
}

func (l *lacking) add(role string, p schema.Privilege, use string) {
	if l.rights == nil {
		l.rights = map[string][]string{}
	}
	key := role + " " + p.Relation
	l.users.add(key, use)
	if !slices.Contains(l.rights[key], p.Right) {
		l.rights[key] = append(l.rights[key], p.Right)
	}
}

// report adds a finding for each role and table, with the GRANT that mends it.
func (l *lacking) report(f *findings) {
	for _, key := range l.order {
		role, relation, _ := strings.Cut(key, " ")
		rights := strings.Join(slices.Sorted(slices.Values(l.rights[key])), ", ")
		f.fail(fmt.Sprintf("GRANT %s ON %s TO %s;", rights, relation, schema.Ident(role)), "%s lacks %s on %s (%s)", role, rights, relation, l.text(key))
	}
}

func checkPrivileges(ctx context.Context, r *run, f *findings) error {
	a, err := r.access(ctx)
	if err != nil {
		return err
	}
	var lacks lacking
	if err := r.workerLacks(ctx, a, f, &lacks); err != nil {
		return err
	}
	if a.roles.OperatorExists {
		a.operatorLacks(&lacks)
	}
	lacks.report(f)
	if r.cfg.SystemAlerts {
		if err := r.sequences(ctx, a, f); err != nil {
			return err
		}
	}
	if !a.roles.CreatesTables && r.pending(ctx) {
		f.fail(fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA public TO %s; or run `ops-worker migrate up` once as a role that may", schema.Ident(a.LoginRole)),
			"%s may not create tables in the schema public, and migrations are pending", a.LoginRole)
	}
	if f.result == OK {
		f.note("%s may write what the worker writes and read what it reads", a.LoginRole)
	}
	if f.result == OK && a.roles.OperatorExists {
		f.note("%s may read what the routes read", schema.OperatorRole)
	}
	return nil
}

// workerRefusals are those of the worker's own statements, with row-level
// security or without.
func (a access) workerRefusals(code string, rowSecurity bool) []refusal {
	return slices.DeleteFunc(slices.Clone(a.refusals), func(refused refusal) bool {
		route := refused.role == schema.OperatorRole && !refused.statement.Platform
		return route || refused.err.Code != code || db.IsRowSecurity(refused.err) != rowSecurity
	})
}

// workerLacks finds the rights behind what the planner refused.
func (r *run) workerLacks(ctx context.Context, a access, f *findings, lacks *lacking) error {
	for _, refused := range a.workerRefusals(privilegeCode, false) {
		var params db.DoctorPrivilegesParams
		for _, p := range refused.statement.Privileges() {
			for _, relation := range schema.Behind(a.stands, p.Relation) {
				params.Roles = append(params.Roles, refused.role)
				params.Relations = append(params.Relations, relation)
				params.Privileges = append(params.Privileges, p.Right)
			}
		}
		var missing []db.DoctorPrivilegesRow
		if err := r.read(ctx, func(q *db.Queries) (err error) {
			missing, err = q.DoctorPrivileges(ctx, params)
			return err
		}); err != nil {
			return err
		}
		for _, m := range missing {
			lacks.add(m.Role, schema.Privilege{Relation: m.Relation, Right: m.Privilege}, refused.statement.Use)
		}
		if len(missing) == 0 { // no table, but a schema or a function
			f.fail(fmt.Sprintf("as its owner: let %s do that", schema.Ident(refused.role)), "%s, as %s: %s", refused.statement.Use, refused.role, refused.err.Message)
		}
	}
	return nil
}

// routeReads calls fn with every table that a route reads as the operator, and
// with the one behind it where that is a view of ours.
func (a access) routeReads(fn func(route schema.Route, p schema.Privilege, relation string)) {
	for _, route := range schema.Routes {
		for _, p := range route.Statement().Privileges() {
			for _, relation := range schema.Behind(a.stands, p.Relation) {
				if route.Operator {
					fn(route, p, relation)
				}
			}
		}
	}
}

// operatorLacks finds what the routes may not read.
func (a access) operatorLacks(lacks *lacking) {
	a.routeReads(func(route schema.Route, p schema.Privilege, relation string) {
		if stood, exists := a.stands[relation]; exists && !stood.OperatorReads {
			lacks.add(schema.OperatorRole, schema.Privilege{Relation: relation, Right: p.Right}, route.Name)
		}
	})
}

// sequences finds those that the alerts' role may not draw from.
func (r *run) sequences(ctx context.Context, a access, f *findings) error {
	var names []string
	if err := r.read(ctx, func(q *db.Queries) error {
		behind, err := schema.AlertSequences(ctx, q, a.stands)
		if err != nil {
			return err
		}
		names, err = q.DoctorSequences(ctx, db.DoctorSequencesParams{Role: a.platformRole, Names: behind})
		return err
	}); err != nil {
		return err
	}
	for _, name := range names {
		f.fail(fmt.Sprintf("GRANT USAGE ON SEQUENCE %s TO %s;", name, schema.Ident(a.platformRole)), "%s may not draw from %s, so no system alert can be opened", a.platformRole, name)
	}
	return nil
}

// checkRowSecurity reports the policies that would hide rows from the worker or
// from the routes.
func checkRowSecurity(ctx context.Context, r *run, f *findings) error {
	a, err := r.access(ctx)
	if err != nil {
		return err
	}
	var hidden users
	advice := map[string]string{}
	for _, refused := range a.workerRefusals(privilegeCode, true) {
		finding := fmt.Sprintf("%s: %s", refused.role, refused.err.Message)
		advice[finding] = r.operatorAdvice(a.roles, a.LoginRole)
		if !refused.statement.Platform {
			advice[finding] = a.disableAdvice(refused.statement)
		}
		hidden.add(finding, refused.statement.Use)
	}
	for _, finding := range hidden.order {
		f.fail(advice[finding], "%s (%s)", finding, hidden.text(finding))
	}

	var enabled []string
	a.routeReads(func(_ schema.Route, _ schema.Privilege, relation string) {
		if a.stands[relation].RowSecurity && !slices.Contains(enabled, relation) {
			enabled = append(enabled, relation)
		}
	})
	slices.Sort(enabled)
	if len(enabled) > 0 && a.roles.OperatorExists && !a.roles.OperatorBypasses {
		f.fail(fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS;", schema.OperatorRole),
			"%s is bound by the policies of %s: the routes count 0 rows there", schema.OperatorRole, strings.Join(enabled, ", "))
	}
	switch {
	case f.result != OK:
	case len(enabled) == 0:
		f.note("on none of the tables that are read")
	default:
		f.note("on %s; the worker reads past it as %s", strings.Join(enabled, ", "), a.platformRole)
	}
	return nil
}

// disableAdvice is what to do about policies on the worker's own tables.
func (a access) disableAdvice(s schema.Statement) string {
	for _, p := range s.Privileges() {
		if a.stands[p.Relation].RowSecurity {
			return fmt.Sprintf("ALTER TABLE %s DISABLE ROW LEVEL SECURITY; (it is the worker's own table)", p.Relation)
		}
	}
	return ""
}

// grantOperator lets a login role take on the operator's.
func (r *run) grantOperator(login string) string {
	return schema.GrantOperator(r.server.VersionNum, schema.Ident(login)) + ";"
}

// operatorAdvice is how to let the worker read past the policies.
func (r *run) operatorAdvice(roles db.DoctorRoleRow, login string) string {
	grant := r.grantOperator(login)
	switch {
	case !roles.OperatorExists:
		return fmt.Sprintf("as a superuser: CREATE ROLE %s NOLOGIN BYPASSRLS; %s", schema.OperatorRole, grant)
	case !roles.OperatorBypasses:
		return fmt.Sprintf("as a superuser: ALTER ROLE %s BYPASSRLS; %s", schema.OperatorRole, grant)
	}
	return grant
}

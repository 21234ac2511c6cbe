package schema

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"ops_worker/db"

	"github.com/jackc/pgx/v5"
)

// Uses are what a worker does in the database, as its settings have it.
type Uses struct{ Retention, SystemAlerts bool }

// Run reports whether such a worker runs a statement.
func (u Uses) Run(s Statement) bool {
	switch s.Use {
	case ForRetention:
		return u.Retention
	case ForSystemAlerts:
		return u.SystemAlerts
	}
	return true
}

// Grant is a statement that gives a right, and what needs it.
type Grant struct {
	SQL string
	For []string
}

// NotMigratedError is a database without a table that rights are to be granted on.
type NotMigratedError struct{ Missing []string }

func (e *NotMigratedError) Error() string {
	return fmt.Sprintf("these tables do not stand yet: %s; run `ops-worker migrate up` first, as the role that is to own them", strings.Join(e.Missing, ", "))
}

// Behind is a table under a name, and the one whose rows are read where a view
// stands in for it.
func Behind(stands map[string]Relation, name string) []string {
	for _, s := range StandIns {
		if s.Name == name && stands[name].IsView() {
			return []string{name, s.Successor}
		}
	}
	return []string{name}
}

// AlertSequences are those that opening an alert draws from.
func AlertSequences(ctx context.Context, q *db.Queries, stands map[string]Relation) ([]string, error) {
	var inserted []string
	for _, s := range WorkerStatements() {
		for _, p := range s.Privileges() {
			if _, exists := stands[p.Relation]; exists && s.Use == ForSystemAlerts && p.Right == "INSERT" {
				inserted = append(inserted, p.Relation)
			}
		}
	}
	return q.SequencesBehind(ctx, inserted)
}

// GrantOperator lets a login role, whose name is quoted where it must be, take on the
// operator's. Since PostgreSQL 16 a membership may be without that.
func GrantOperator(serverVersion int32, login string) string {
	grant := fmt.Sprintf("GRANT %s TO %s", OperatorRole, login)
	if serverVersion >= 160000 {
		grant += " WITH SET TRUE"
	}
	return grant
}

// quoted is a name as SQL takes it whatever it is: a role may be called user.
func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// Ident is a name for people to read, quoted where it must be but for the words that
// SQL keeps for itself.
func Ident(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return quoted(name)
}

// holding is a role that needs rights to a relation.
type holding struct{ role, relation string }

// rights are what roles need, in the order of first mention.
type rights struct {
	order  []holding
	rights map[holding]map[string]bool
	uses   map[holding][]string
}

// needed are the rights to tables behind the statements that a worker runs: its
// own as the login role, the platform's as the role that it takes on.
func needed(stands map[string]Relation, uses Uses, role, platformRole string) rights {
	n := rights{rights: map[holding]map[string]bool{}, uses: map[holding][]string{}}
	for _, s := range WorkerStatements() {
		if !uses.Run(s) {
			continue
		}
		as := role
		if s.Platform {
			as = platformRole
		}
		for _, p := range s.Privileges() {
			for _, relation := range Behind(stands, p.Relation) {
				key := holding{as, relation}
				if n.rights[key] == nil {
					n.order = append(n.order, key)
					n.rights[key] = map[string]bool{}
				}
				n.rights[key][p.Right] = true
				if !slices.Contains(n.uses[key], s.Use) {
					n.uses[key] = append(n.uses[key], s.Use)
				}
			}
		}
	}
	return n
}

// Grants are what lets a login role do exactly what the worker does, read off the
// statements that it runs. The tables must stand, the roles need not.
func Grants(ctx context.Context, q *db.Queries, role string, uses Uses) ([]Grant, error) {
	stands, err := StandingRelations(ctx, q)
	if err != nil {
		return nil, err
	}
	if missing := Missing(stands); len(missing) > 0 {
		return nil, &NotMigratedError{missing}
	}
	described, err := q.DescribeRole(ctx, role)
	if err != nil {
		return nil, err
	}
	server, err := q.DescribeServer(ctx)
	if err != nil {
		return nil, err
	}
	expirer, _, err := FindExpirer(ctx, q)
	if err != nil {
		return nil, err
	}
	uses.Retention = uses.Retention && expirer == ExpiresByDelete

	var list []Grant
	grant := func(what, sql string, args ...any) {
		list = append(list, Grant{fmt.Sprintf(sql, args...), []string{what}})
	}
	if !described.RoleExists {
		grant("to log in; give it a password", "CREATE ROLE %s LOGIN", quoted(role))
	}
	grant("to connect", "GRANT CONNECT ON DATABASE %s TO %s", quoted(described.Database), quoted(role))
	grant("to find the tables", "GRANT USAGE ON SCHEMA public TO %s", quoted(role))
	platformRole := role
	if described.PoliciesBind {
		// As EnterPlatformScope does: past the policies, or not at all.
		platformRole = OperatorRole
		const use = "to read past row-level security"
		switch {
		case !described.OperatorExists:
			grant(use, "CREATE ROLE %s NOLOGIN BYPASSRLS", OperatorRole)
		case !described.OperatorBypasses:
			grant(use, "ALTER ROLE %s BYPASSRLS", OperatorRole)
		}
		grant(use, "%s", GrantOperator(server.VersionNum, quoted(role)))
		grant("to find the tables", "GRANT USAGE ON SCHEMA public TO %s", OperatorRole)
	}
	tables := needed(stands, uses, role, platformRole)
	for _, key := range tables.order {
		list = append(list, Grant{fmt.Sprintf("GRANT %s ON public.%s TO %s", strings.Join(slices.Sorted(maps.Keys(tables.rights[key])), ", "), quoted(key.relation), quoted(key.role)), tables.uses[key]})
	}
	if uses.SystemAlerts {
		sequences, err := AlertSequences(ctx, q, stands)
		if err != nil {
			return nil, err
		}
		for _, name := range sequences { // quoted by the server
			list = append(list, Grant{fmt.Sprintf("GRANT USAGE ON SEQUENCE %s TO %s", name, quoted(platformRole)), []string{ForSystemAlerts}})
		}
	}
	return list, nil
}

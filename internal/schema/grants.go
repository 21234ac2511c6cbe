package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ops_worker/db"
	"ops_worker/sql"
)

// Grants is sql/grants.sql for a login role: what lets it do what the worker does. The
// tables must stand, the role need not.
func Grants(ctx context.Context, q *db.Queries, role string) (script string, err error) {
	if missing, err := MissingTables(ctx, q); err != nil {
		return "", err
	} else if len(missing) > 0 {
		return "", fmt.Errorf("these tables do not stand yet: %s; run `ops-worker migrate up` first, as the role that is to own them", strings.Join(missing, ", "))
	}
	facts, err := q.GrantFacts(ctx, role)
	if err != nil {
		return "", err
	}
	platform := quoted(role)
	if slices.Contains(facts.Conditions, "policies") {
		platform = OperatorRole // as EnterPlatformScope will find
	}
	names := strings.NewReplacer(":login", quoted(role), ":platform", platform,
		":database", quoted(facts.Database), ":alert_sequence", facts.AlertSequence) // which the server has quoted
	var lines strings.Builder
	for line := range strings.Lines(sql.Grants) {
		statement, reason, found := strings.Cut(line, "; -- ")
		if !found {
			continue // the heading
		}
		if rest, conditional := strings.CutPrefix(reason, "if "); conditional {
			var condition string
			condition, reason, _ = strings.Cut(rest, ": ")
			if !slices.Contains(facts.Conditions, condition) {
				continue
			}
		}
		fmt.Fprintf(&lines, "%s; -- %s", names.Replace(statement), reason)
	}
	return lines.String(), nil
}

package doctor

import (
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/db"
)

// refusals are what the server would not do, by its words.
type refusals struct {
	words []string // in the order of first mention
	first map[string]error
	uses  map[string][]string
}

// note keeps the server's refusal of what use needs; role is who was refused, where
// that tells something. Any other error comes back: of a connection that is lost, say.
func (l *refusals) note(use, role string, err error) error {
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		return err
	}
	if l.first == nil {
		l.first, l.uses = map[string]error{}, map[string][]string{}
	}
	words := serverWords(err)
	if db.IsLocked(err) {
		words = lockedWords
	}
	if db.IsForbidden(err) && role != "" {
		words = role + ": " + words
	}
	if l.first[words] == nil {
		l.words, l.first[words] = append(l.words, words), err
	}
	if !slices.Contains(l.uses[words], use) {
		l.uses[words] = append(l.uses[words], use)
	}
	return nil
}

// report makes a finding of each; grant is how a missing right is given. A table that
// a pending migration makes is no fault yet.
func (l *refusals) report(r *run, f *findings, grant string) {
	for _, words := range l.words {
		err, text := l.first[words], words+" ("+strings.Join(l.uses[words], ", ")+")"
		switch {
		case db.IsLocked(err):
			f.warn(lockedAdvice, "%s", text)
		case r.pending && db.IsMissingTable(err):
			f.warn(startMakesIt, "%s", text)
		case db.IsForbidden(err):
			f.fail(grant, "%s", text)
		default:
			f.fail(r.advice(err), "%s", text)
		}
	}
}

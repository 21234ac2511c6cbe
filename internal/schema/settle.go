package schema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"ops_worker/db"
	"ops_worker/migrations"
)

// MigratorTable is where the platform's migrator notes which of its files it has
// applied. It takes a database with tables in public and without a row in there
// for one that was migrated before it: it notes all its files and runs none.
const MigratorTable = "schema_migrations"

// MigratorMark is the version of the worker's own row in there, which keeps the
// migrator from that.
const MigratorMark = "ops_worker"

const markFile = "no file: the worker came first"

// ForeignDatabaseError is a database that holds tables, and none of the
// platform's.
type ForeignDatabaseError struct{ Database string }

func (e *ForeignDatabaseError) Error() string {
	return fmt.Sprintf("the database %s holds tables, and in the schema public none of the platform's: is it the right one? "+
		"Nothing was made; --any-database is for whoever means it", e.Database)
}

// ElsewhereError is a database with tables of the worker outside of public, which is
// where the platform's migrator puts its own and where the worker writes.
type ElsewhereError struct{ Found []db.FindElsewhereRow }

func (e *ElsewhereError) Error() string {
	var moves []string
	for _, f := range e.Found {
		kind := map[string]string{"v": "VIEW"}[f.Kind]
		moves = append(moves, fmt.Sprintf("ALTER %s %s SET SCHEMA public;", cmp.Or(kind, "TABLE"), pgx.Identifier{f.Schema, f.Name}.Sanitize()))
	}
	return "tables of the worker stand outside of the schema public; with every worker stopped, move them there, and before that " +
		"drop or rename what public has of the same name and nobody reads: " + strings.Join(moves, " ")
}

// IsRefused reports whether a database is not one for the worker. To ask it again
// does not help.
func IsRefused(err error) bool {
	var foreign *ForeignDatabaseError
	var elsewhere *ElsewhereError
	return errors.As(err, &foreign) || errors.As(err, &elsewhere)
}

// refuseElsewhere fails with an ElsewhereError where tables of the worker stand
// outside of public alone. A copy of what public has, such as a backup, is nobody's.
func refuseElsewhere(ctx context.Context, q *db.Queries) error {
	found, err := q.FindElsewhere(ctx, append(OwnTables(), VersionTable, lockTable))
	if err == nil && slices.ContainsFunc(found, func(f db.FindElsewhereRow) bool { return !f.InPublic }) {
		err = &ElsewhereError{found}
	}
	return err
}

// RowSecurityError is row-level security that would hide rows of the worker's own
// tables from it.
type RowSecurityError struct{ Tables []string }

func (e *RowSecurityError) Error() string {
	return fmt.Sprintf("row-level security would hide rows of the worker's own tables from it: %s", e.Advice())
}

// Advice is the SQL that ends it.
func (e *RowSecurityError) Advice() string {
	statements := make([]string, len(e.Tables))
	for i, table := range e.Tables {
		statements[i] = fmt.Sprintf("ALTER TABLE public.%s DISABLE ROW LEVEL SECURITY;", table)
	}
	return strings.Join(statements, " ")
}

// CheckRowSecurity fails with a RowSecurityError where policies bind q's role in the
// worker's own tables.
func CheckRowSecurity(ctx context.Context, q *db.Queries) error {
	rows, err := q.DescribeRelations(ctx, keptTables())
	var bound []string
	for _, r := range rows {
		if r.RowSecurityActive {
			bound = append(bound, r.Name)
		}
	}
	if err == nil && len(bound) > 0 {
		err = &RowSecurityError{bound}
	}
	return err
}

// keptTables are the tables that the worker keeps, that of its migrations
// included.
func keptTables() []string {
	return append(slices.Clone(migrations.Tables), VersionTable)
}

// settlement is how a database looks to the platform's migrator.
type settlement struct {
	// platform is that a table of the platform stands that the worker did not make.
	// Then nothing else matters, and nobody needs the right to read the rest.
	platform bool
	ours     bool // the worker made something
	// known is that schema_migrations stands; files are its rows, and marked is that
	// one more is the worker's.
	known, unreadable, marked bool
	files                     int64
}

func findSettlement(ctx context.Context, q *db.Queries) (s settlement, err error) {
	stands, err := StandingRelations(ctx, q)
	if err != nil {
		return s, err
	}
	own := OwnRelations()
	s.ours = len(stands) > 0
	for name, r := range stands {
		s.platform = s.platform || !slices.Contains(own, name) && !r.MadeByWorker()
	}
	notes, err := q.DescribeRelations(ctx, []string{MigratorTable})
	if s.known = len(notes) > 0; err != nil || !s.known || s.platform {
		return s, err
	}
	if s.unreadable = !notes[0].Readable; s.unreadable {
		return s, nil
	}
	history, err := q.MigratorHistory(ctx, MigratorMark)
	s.files, s.marked = history.Files, history.Marked
	return s, err
}

// settle refuses a database that is not one for the worker, and leaves a mark for
// the platform's migrator where that has not run yet: both before anything else is
// made.
func settle(ctx context.Context, tx pgx.Tx, anyDatabase bool) (changes []Change, err error) {
	q := db.New(tx)
	found, err := examine(ctx, q, anyDatabase)
	if err != nil {
		return nil, err
	}
	if found.files > 0 || found.marked || found.platform || found.ours && found.unreadable {
		return nil, nil
	}
	if _, err := tx.Exec(ctx, sqlFile("platform/migrator", MigratorTable)); err != nil {
		return nil, fmt.Errorf("make %s, which keeps the platform's migrator from taking this database for a migrated one: %w", MigratorTable, err)
	}
	marked, err := q.MarkForMigrator(ctx, db.MarkForMigratorParams{Version: MigratorMark, Filename: markFile})
	if err != nil {
		return nil, fmt.Errorf("leave a mark in %s, which keeps the platform's migrator from taking this database for a migrated one: %w", MigratorTable, err)
	}
	if marked > 0 {
		changes = append(changes, Change{MigratorTable, "marked", "so that the platform's migrator applies its files"})
	}
	return changes, nil
}

// Refuse fails where the database is not one for the worker: with an error of which
// IsRefused is true, or with a RowSecurityError.
func Refuse(ctx context.Context, q *db.Queries, anyDatabase bool) error {
	if _, err := examine(ctx, q, anyDatabase); err != nil {
		return err
	}
	return CheckRowSecurity(ctx, q)
}

// examine looks at the database, and refuses one that is not for the worker.
func examine(ctx context.Context, q *db.Queries, anyDatabase bool) (settlement, error) {
	database, err := q.DescribeDatabase(ctx)
	if err != nil {
		return settlement{}, err
	}
	if !database.PublicUsable {
		return settlement{}, fmt.Errorf("%s may not use the schema public, or there is none: GRANT USAGE ON SCHEMA public TO %s",
			database.LoginRole, quoted(database.LoginRole))
	}
	if err := refuseElsewhere(ctx, q); err != nil {
		return settlement{}, err
	}
	found, err := findSettlement(ctx, q)
	if err == nil && database.HasTables && !anyDatabase && !found.known && !found.ours && !found.platform {
		err = &ForeignDatabaseError{database.Name}
	}
	return found, err
}

// quoted is a name as SQL takes it whatever it is: a role may be called user.
func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }

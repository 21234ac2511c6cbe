package db

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

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

// publicSchema is the one that the platform's migrator looks into.
const publicSchema = "public"

// ForeignDatabaseError is a database that holds tables, and none of the
// platform's.
type ForeignDatabaseError struct{ Database, SearchPath string }

func (e *ForeignDatabaseError) Error() string {
	return fmt.Sprintf("the database %s holds tables, and in its search path (%s) none of the platform's: is it the right one? "+
		"Nothing was made; --any-database is for whoever means it", e.Database, e.SearchPath)
}

// TwoSetsError is a table of the worker that stands in two schemas of the search
// path: what it writes may not be what the platform's routes read.
type TwoSetsError struct {
	Table         string
	First, Second string // schemas, in the order of the search path
}

func (e *TwoSetsError) Error() string {
	return fmt.Sprintf("%s stands in two schemas of the search path, %s and %s: drop the set that the platform's routes do not read, "+
		"or take its schema out of the path", e.Table, e.First, e.Second)
}

// IsRefused reports whether a database is not one for the worker. To ask it again
// does not help.
func IsRefused(err error) bool {
	var foreign *ForeignDatabaseError
	var twice *TwoSetsError
	return errors.As(err, &foreign) || errors.As(err, &twice)
}

// keptTables are the tables that the worker keeps, that of its migrations
// included.
func keptTables() []string {
	return append(must(migrations.Relations(migrations.Table)), VersionTable)
}

// home is where in a database the worker's tables belong.
type home struct {
	schema string
	first  bool // of the search path, so that a plain name leads there
}

// FindHome returns the schema in which the worker's tables stand, or else the
// platform's, or else new ones are made.
func FindHome(ctx context.Context, q *Queries) (string, error) {
	database, err := q.DescribeDatabase(ctx)
	if err != nil {
		return "", err
	}
	h, err := findHome(ctx, q, database)
	return h.schema, err
}

func findHome(ctx context.Context, q *Queries, database DescribeDatabaseRow) (home, error) {
	for _, names := range [][]string{keptTables(), append(slices.Clone(PlatformTables), MigratorTable)} {
		found, err := q.FindInSearchPath(ctx, names)
		if err != nil {
			return home{}, err
		}
		if len(found) == 0 {
			continue
		}
		first := found[0].Schema
		for _, f := range found {
			if f.Schema != first && slices.Contains(keptTables(), f.Name) && slices.Contains(found, FindInSearchPathRow{f.Name, first}) {
				return home{}, &TwoSetsError{f.Name, first, f.Schema}
			}
		}
		return home{first, first == database.Schema}, nil
	}
	return home{database.Schema, true}, nil
}

// enter makes plain names lead home, to the end of the transaction.
func (h home) enter(ctx context.Context, q *Queries) error {
	if h.first {
		return nil
	}
	return q.UseSchema(ctx, h.schema)
}

// standsElse reports whether a relation of the platform stands that the worker
// did not make.
func standsElse(stands map[string]DescribeRelationsRow) bool {
	own := OwnRelations()
	for name, r := range stands {
		if !slices.Contains(own, name) && !r.MadeByWorker() {
			return true
		}
	}
	return false
}

// Settlement is how a database looks to the platform's migrator.
type Settlement struct {
	// Platform is that a table of the platform stands that the worker did not
	// make. Then nothing else matters, and Files and Marked are not read: nobody
	// needs the right to.
	Platform bool
	// Known is that schema_migrations stands, Files are its rows, and Marked is
	// that one more is the worker's.
	Known  bool
	Files  int64
	Marked bool
	// Ours is that the worker made something.
	Ours bool
	// Unreadable is that schema_migrations may not be read.
	Unreadable bool
}

// Ruined reports whether the platform's migrator has noted its files and run
// none.
func (s Settlement) Ruined() bool { return s.Files > 0 && !s.Platform }

// WouldRuin reports whether the platform's migrator would do so now.
func (s Settlement) WouldRuin() bool { return s.Files == 0 && !s.Marked && !s.Platform && s.Ours }

// Repair is the SQL after which the migrator runs all its files.
func (Settlement) Repair() string {
	return fmt.Sprintf("DELETE FROM %[1]s; INSERT INTO %[1]s (version, filename) VALUES ('%s', '%s');", MigratorTable, MigratorMark, markFile)
}

// FindSettlement looks at a database as its migrator would.
func FindSettlement(ctx context.Context, q *Queries) (s Settlement, err error) {
	stands, err := StandingRelations(ctx, q)
	if err != nil {
		return s, err
	}
	s.Ours, s.Platform = len(stands) > 0, standsElse(stands)
	migrator, err := q.DescribeRelations(ctx, []string{MigratorTable})
	if s.Known = len(migrator) > 0; err != nil || !s.Known || s.Platform {
		return s, err
	}
	if s.Unreadable = !migrator[0].Readable; s.Unreadable {
		return s, nil
	}
	history, err := q.MigratorHistory(ctx, MigratorMark)
	s.Files, s.Marked = history.Files, history.Marked
	return s, err
}

// settle finds where the worker's tables belong and makes plain names lead there,
// to the end of tx. It refuses a database that is not the platform's, and leaves a
// mark for the platform's migrator where that has not run yet: all before anything
// else is made.
func settle(ctx context.Context, tx pgx.Tx, anyDatabase bool) (h home, changes []Change, err error) {
	q := New(tx)
	database, err := q.DescribeDatabase(ctx)
	if err != nil {
		return h, nil, err
	}
	if h, err = findHome(ctx, q, database); err != nil {
		return h, nil, err
	}
	if h.schema == "" {
		return h, nil, fmt.Errorf("no schema of %s's search path (%s) exists and may be used by it", database.LoginRole, database.SearchPath)
	}
	if err := h.enter(ctx, q); err != nil {
		return h, nil, err
	}
	found, err := FindSettlement(ctx, q)
	if err != nil {
		return h, nil, err
	}
	if database.HasTables && !anyDatabase && !found.Known && !found.Ours && !found.Platform {
		return h, nil, &ForeignDatabaseError{database.Name, database.SearchPath}
	}
	if h.schema != publicSchema || found.Files > 0 || found.Marked || found.Platform || found.Ours && found.Unreadable {
		return h, nil, nil
	}
	if _, err := tx.Exec(ctx, sqlFile("platform/migrator", MigratorTable)); err != nil {
		return h, nil, fmt.Errorf("make %s, which keeps the platform's migrator from taking this database for a migrated one: %w", MigratorTable, err)
	}
	marked, err := q.MarkForMigrator(ctx, MarkForMigratorParams{Version: MigratorMark, Filename: markFile})
	if err != nil {
		return h, nil, fmt.Errorf("leave a mark in %s, which keeps the platform's migrator from taking this database for a migrated one: %w", MigratorTable, err)
	}
	if marked > 0 {
		changes = append(changes, Change{MigratorTable, "marked", "so that the platform's migrator applies its files"})
	}
	return h, changes, nil
}

package db_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// A server's error is one of the statement: the connection is well, and there is one.
func TestAServersErrorLeavesTheConnectionWell(t *testing.T) {
	t.Parallel()
	refused := func(severity, code string) error {
		return fmt.Errorf("some statement: %w", &pgconn.PgError{Severity: severity, SeverityUnlocalized: severity, Code: code})
	}
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"a missing table":               {refused("ERROR", "42P01"), true},
		"a statement's time-out":        {refused("ERROR", "57014"), true},
		"a feature that is not there":   {refused("ERROR", "0A000"), true},
		"ended by an administrator":     {refused("FATAL", "57P01"), false},
		"a server that crashes":         {refused("WARNING", "57P02"), false},
		"a pooler that waited too long": {&pgconn.PgError{Severity: "FATAL", Code: "08P01"}, false},
		"a pooler's protocol error":     {&pgconn.PgError{Severity: "ERROR", Code: "08P01"}, false},
		"an idle transaction's end":     {&pgconn.PgError{Severity: "FATAL", Code: "25P03"}, false},
		"a lost connection":             {errors.New("unexpected EOF"), false},
		"a deadline":                    {context.DeadlineExceeded, false},
		"nothing":                       {nil, false},
	} {
		if got := db.IsServerError(test.err); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// What the server said while no connection was made is no word on a statement.
func TestAConnectionThatIsRefusedIsNoServersError(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	address, err := url.Parse(database.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/none_of_this_name"
	pool, err := pgxpool.New(t.Context(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	err = db.NewClient(pool, time.Second).Read(t.Context(), func(context.Context, *db.Queries) error { return nil })
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || db.IsServerError(err) {
		t.Errorf("%v is a statement's", err)
	}
}

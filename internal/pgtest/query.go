package pgtest

import (
	stdcmp "cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"ops_worker/db"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Querier is a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Rows returns the rows of a query as text, "-" for NULL.
func Rows(tb testing.TB, q Querier, sql string, args ...any) []string {
	tb.Helper()
	rows, err := q.Query(tb.Context(), sql, args...)
	if err != nil {
		tb.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		values, err := row.Values()
		for i, v := range values {
			values[i] = strings.ReplaceAll(fmt.Sprint(v), "<nil>", "-")
		}
		return strings.TrimSpace(fmt.Sprintln(values...)), err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return lines
}

// WantRows fails the test where a query has other rows.
func WantRows(tb testing.TB, q Querier, sql string, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(want, Rows(tb, q, sql), cmpopts.EquateEmpty()); diff != "" {
		tb.Errorf("%s: %s", sql, diff)
	}
}

// Count is the number in a query's one row.
func Count(tb testing.TB, q Querier, sql string, args ...any) int {
	tb.Helper()
	rows, err := q.Query(tb.Context(), sql, args...)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// patience is far longer than a condition takes on a machine under load.
const patience = time.Minute

// Eventually waits until condition holds, up to a deadline.
func Eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-ticker.C {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// Plans are how the server would run the statements that fn sends. None is run.
func Plans(tb testing.TB, q Querier, fn func(context.Context, *db.Queries)) []string {
	tb.Helper()
	e := &explainer{on: q}
	fn(tb.Context(), db.New(e))
	if e.err != nil || len(e.plans) == 0 {
		tb.Fatalf("%d plans, %v", len(e.plans), e.err)
	}
	return e.plans
}

var errPlanned = errors.New("planned, not run")

// explainer is a db.DBTX that has statements planned.
type explainer struct {
	on    Querier
	plans []string
	err   error // the first
}

func (e *explainer) explain(ctx context.Context, sql string, args []any) error {
	rows, err := e.on.Query(ctx, "EXPLAIN "+sql, args...)
	var plan []string
	if err == nil {
		plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		e.err = stdcmp.Or(e.err, err)
		return err
	}
	e.plans = append(e.plans, strings.Join(plan, "\n"))
	return errPlanned
}

func (e *explainer) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, e.explain(ctx, sql, args)
}

func (e *explainer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return nil, e.explain(ctx, sql, args)
}

func (e *explainer) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return planned{e.explain(ctx, sql, args)}
}

type planned struct{ err error }

func (p planned) Scan(...any) error { return p.err }

package db

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Queue adds a generated query to a batch: call it on the Queries that it is
// given. So several queries go in one round trip, and the order of their
// arguments is still sqlc's alone.
func Queue(batch *pgx.Batch, call func(*Queries)) {
	call(New(recorder{batch: batch}))
}

var errQueued = errors.New("queued, not sent")

// recorder is a DBTX that queues what it should send, behind a prefix.
type recorder struct {
	batch  *pgx.Batch
	prefix string
}

func (r recorder) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	r.batch.Queue(r.prefix+sql, args...)
	return pgconn.CommandTag{}, errQueued
}

func (r recorder) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	r.batch.Queue(r.prefix+sql, args...)
	return nil, errQueued
}

func (r recorder) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	r.batch.Queue(r.prefix+sql, args...)
	return queuedRow{}
}

type queuedRow struct{}

func (queuedRow) Scan(...any) error { return errQueued }

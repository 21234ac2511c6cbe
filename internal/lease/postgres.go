package lease

import (
	"context"
	"fmt"
	"time"

	"ops_worker/db"
)

// FutureLimit is how far ahead of the database's clock a stored cycle may lie. One
// further ahead was stamped by a wrong clock and is ignored.
const FutureLimit = time.Hour

// Postgres is the Store on a real database.
type Postgres struct {
	client        *db.Client
	cycleInterval time.Duration
}

// NewPostgres keeps the lease in client's database. cycleInterval is stored with the
// lease, for readers such as status; zero is unknown.
func NewPostgres(client *db.Client, cycleInterval time.Duration) *Postgres {
	return &Postgres{client: client, cycleInterval: cycleInterval}
}

// Look reads the lease without locking it.
func (p *Postgres) Look(ctx context.Context) (State, error) {
	var row db.ReadLeaseRow
	err := p.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		row, err = q.ReadLease(ctx, db.LeaseName)
		return err
	})
	if db.IsNoRows(err) {
		return State{}, nil
	}
	return State{Holder: row.Holder, Held: row.Held, FromTheFuture: row.FromTheFuture, ReadOnly: row.ReadOnly, LastCycleAt: row.LastCycleAt}, err
}

// Touch fails if the database refuses writes.
func (p *Postgres) Touch(ctx context.Context) error {
	return p.client.Write(ctx, func(ctx context.Context, q *db.Queries) error {
		_, err := q.TouchLease(ctx, db.LeaseName)
		return err
	})
}

// Acquire takes a lease that is free, expired or already holder's.
func (p *Postgres) Acquire(ctx context.Context, holder string, ttl time.Duration) (grant Grant, err error) {
	err = p.client.Write(ctx, func(ctx context.Context, q *db.Queries) error {
		rows, err := q.LockLease(ctx, db.LeaseName)
		if err != nil {
			return fmt.Errorf("lock lease: %w", err)
		}
		if rows == 0 {
			if err := q.CreateLease(ctx, db.CreateLeaseParams{Name: db.LeaseName, FutureSeconds: FutureLimit.Seconds()}); err != nil {
				return fmt.Errorf("create lease: %w", err)
			}
		}
		row, err := q.AcquireLease(ctx, db.AcquireLeaseParams{Name: db.LeaseName, Holder: holder, TtlSeconds: ttl.Seconds(), CycleSeconds: p.cycleInterval.Seconds()})
		grant = Grant(row)
		return err
	})
	return grant, lost(err)
}

// Renew extends the lease.
func (p *Postgres) Renew(ctx context.Context, token Token, ttl time.Duration) (now time.Time, err error) {
	err = p.client.Write(ctx, func(ctx context.Context, q *db.Queries) error {
		now, err = q.RenewLease(ctx, db.RenewLeaseParams{Name: db.LeaseName, Holder: token.Holder, Epoch: token.Epoch, TtlSeconds: ttl.Seconds()})
		return err
	})
	return now, lost(err)
}

// Release hands the lease back.
func (p *Postgres) Release(ctx context.Context, token Token) error {
	var rows int64
	err := p.client.Write(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		rows, err = q.ReleaseLease(ctx, db.ReleaseLeaseParams{Name: db.LeaseName, Holder: token.Holder, Epoch: token.Epoch})
		return err
	})
	if err == nil && rows == 0 {
		return ErrLost
	}
	return err
}

// Fenced runs fn in a transaction that locks the lease. Without the lease it writes
// nothing and returns ErrLost.
func Fenced(ctx context.Context, client *db.Client, token Token, fn func(context.Context, *db.Queries) error) error {
	return client.Write(ctx, func(ctx context.Context, q *db.Queries) error {
		held, err := q.HoldLease(ctx, db.HoldLeaseParams{Name: db.LeaseName, Holder: token.Holder, Epoch: token.Epoch})
		switch {
		case err != nil:
			return fmt.Errorf("hold lease: %w", err)
		case held == 0:
			return ErrLost
		}
		return fn(ctx, q)
	})
}

// Check returns ErrLost if the lease is not token's. It locks nothing.
func Check(ctx context.Context, q *db.Queries, token Token) error {
	lease, err := q.ReadLease(ctx, db.LeaseName)
	if err == nil && !(lease.Held && token == Token{lease.Holder, lease.Epoch}) {
		return ErrLost
	}
	return lost(err)
}

// lost turns "no rows" into ErrLost: the row is no longer this holder's.
func lost(err error) error {
	if db.IsNoRows(err) {
		return ErrLost
	}
	return err
}

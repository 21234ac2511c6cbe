package collectors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
)

// LeaseName is the row of the lease table that the worker's replicas share.
const LeaseName = "ops_worker"

// Store is what the two collectors need of the database. Every write is fenced:
// it fails with ErrLeaseLost, and has written nothing, when the token is not the
// lease's any more.
type Store interface {
	Ping(ctx context.Context) error
	Aggregates(ctx context.Context) Aggregates
	// AppendCycles stores what is newer than the newest stored cycle, renews
	// the lease, and returns how many samples were new and the database's
	// clock. Repeating it is harmless.
	AppendCycles(ctx context.Context, token Token, cycles []Cycle) (stored int, now time.Time, err error)
	SaveHealth(ctx context.Context, token Token, at time.Time, observations []Observation) error
	// SyncAlerts opens and closes system alerts; it names their services.
	// Acknowledged ones are closed only where changed says that a service may
	// have recovered since the last time: looking for them is dear.
	SyncAlerts(ctx context.Context, token Token, observations []Observation, changed bool) (opened, closed []string, err error)
	// ExpireSamples removes about batch samples that are older than cutoff; more
	// tells that there may be more of them.
	ExpireSamples(ctx context.Context, token Token, cutoff time.Time, batch int) (removed int64, more bool, err error)
}

// Postgres is the Store and the LeaseStore on a real database.
type Postgres struct {
	pool *pgxpool.Pool
	// limit is the server's own time-out for each statement.
	limit time.Duration
	ttl   time.Duration
}

// NewPostgres makes the store. Every statement is given up by the server after
// limit; an append renews the lease for ttl.
func NewPostgres(pool *pgxpool.Pool, limit, ttl time.Duration) *Postgres {
	return &Postgres{pool: pool, limit: limit, ttl: ttl}
}

var (
	_ Store      = (*Postgres)(nil)
	_ LeaseStore = (*Postgres)(nil)
)

// Ping runs a query.
func (p *Postgres) Ping(ctx context.Context) error {
	return p.retrying(ctx, func() error {
		_, err := db.New(p.pool).Now(ctx)
		return err
	})
}

// Aggregates reads all aggregates, on a fresh connection where the first one
// turned out to be dead.
func (p *Postgres) Aggregates(ctx context.Context) Aggregates {
	var a Aggregates
	_ = p.retrying(ctx, func() error {
		if a = readAggregates(ctx, p.pool.SendBatch, p.limit); a.Answered {
			return nil
		}
		return a.Failed[aggregates[0].name] // one error, which is all aggregates'
	})
	return a
}

// fenced runs fn in a transaction that holds the lease.
func (p *Postgres) fenced(ctx context.Context, token Token, fn func(*db.Queries) error) error {
	return p.inTx(ctx, func(q *db.Queries) error {
		_, err := q.HoldLease(ctx, db.HoldLeaseParams{Name: LeaseName, Holder: token.Holder, Epoch: token.Epoch})
		if db.IsNoRows(err) {
			return ErrLeaseLost
		}
		if err != nil {
			return fmt.Errorf("hold lease: %w", err)
		}
		return fn(q)
	})
}

// inTx runs fn in a transaction.
func (p *Postgres) inTx(ctx context.Context, fn func(*db.Queries) error) error {
	return p.inTxOf(ctx, p.limit, fn)
}

func (p *Postgres) inTxOf(ctx context.Context, limit time.Duration, fn func(*db.Queries) error) error {
	ctx, cancel := withDeadline(ctx, limit)
	defer cancel()
	return p.retrying(ctx, func() error { return db.InTx(ctx, p.pool, limit, fn) })
}

// withDeadline gives a transaction twice the time of a statement: a connection
// that is half open must not keep a cycle for its whole interval.
func withDeadline(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, 2*limit, fmt.Errorf("transaction exceeded its deadline of %s", 2*limit))
}

// retrying runs fn, and once more where its connection turned out to be dead:
// after a restart of the server or its pooler, every idle one is. All that is
// done here may be repeated.
func (p *Postgres) retrying(ctx context.Context, fn func() error) error {
	err := fn()
	if isConnectionError(err) && ctx.Err() == nil {
		p.pool.Reset()
		err = fn()
	}
	return err
}

// isConnectionError reports whether an established connection failed: by the
// server's word that it ends it, or without a word.
func isConnectionError(err error) bool {
	if err == nil || errors.Is(err, ErrLeaseLost) || db.IsNoRows(err) {
		return false
	}
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) {
		return false // a new one cannot be had either
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return strings.HasPrefix(pgErr.Code, "57P") || strings.HasPrefix(pgErr.Code, "08")
	}
	return !pgconn.Timeout(err)
}

// AppendCycles appends cycles, which are in order.
func (p *Postgres) AppendCycles(ctx context.Context, token Token, cycles []Cycle) (stored int, now time.Time, err error) {
	n := 0
	for _, c := range cycles {
		n += len(c.Samples)
	}
	params := db.AppendSamplesParams{
		Times:       make([]time.Time, 0, n),
		MetricNames: make([]string, 0, n),
		Services:    make([]string, 0, n),
		Tags:        make([]string, 0, n),
		Values:      make([]float64, 0, n),
		LeaseName:   LeaseName,
		Holder:      token.Holder,
		Epoch:       token.Epoch,
		TtlSeconds:  p.ttl.Seconds(),
	}
	for _, c := range cycles {
		for _, s := range c.Samples {
			params.Times = append(params.Times, c.At)
			params.MetricNames = append(params.MetricNames, s.Metric)
			params.Services = append(params.Services, s.Service)
			params.Tags = append(params.Tags, s.Tags)
			params.Values = append(params.Values, s.Value)
		}
		params.CycleAt = c.At
	}
	ctx, cancel := withDeadline(ctx, p.limit)
	defer cancel()
	err = p.retrying(ctx, func() error {
		row, err := p.append(ctx, params)
		if db.IsNoRows(err) {
			return ErrLeaseLost
		}
		if err != nil {
			return fmt.Errorf("append samples: %w", err)
		}
		stored, now = int(row.Samples), row.Now
		return nil
	})
	return stored, now, err
}

// append sends the limits and the one statement of a store together: a batch is
// a transaction, in one round trip, and never idles.
func (p *Postgres) append(ctx context.Context, params db.AppendSamplesParams) (row db.AppendSamplesRow, err error) {
	batch := &pgx.Batch{}
	db.Queue(batch, func(q *db.Queries) { _, _ = q.LimitTransaction(ctx, max(1, p.limit.Milliseconds())) })
	db.Queue(batch, func(q *db.Queries) { _, _ = q.AppendSamples(ctx, params) })
	results := p.pool.SendBatch(ctx, batch)
	// Only the end of the batch says that it is committed.
	defer func() {
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err := results.Exec(); err != nil {
		return row, err
	}
	rows, err := results.Query()
	if err != nil {
		return row, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[db.AppendSamplesRow])
}

// SaveHealth upserts the row of every observed service.
func (p *Postgres) SaveHealth(ctx context.Context, token Token, at time.Time, observations []Observation) error {
	params := db.UpsertServiceHealthParams{CheckedAt: at}
	for _, o := range observations {
		details, err := o.details()
		if err != nil {
			return fmt.Errorf("encode details of %s: %w", o.Service, err)
		}
		params.Services = append(params.Services, o.Service)
		params.Statuses = append(params.Statuses, o.rowStatus())
		params.LatenciesMs = append(params.LatenciesMs, o.latencyMS())
		params.Details = append(params.Details, details)
	}
	return p.fenced(ctx, token, func(q *db.Queries) error {
		if _, err := q.UpsertServiceHealth(ctx, params); err != nil {
			return fmt.Errorf("upsert service health: %w", err)
		}
		return nil
	})
}

// SyncAlerts brings the system alerts in line with the observations.
func (p *Postgres) SyncAlerts(ctx context.Context, token Token, observations []Observation, changed bool) (opened, closed []string, err error) {
	params := db.SyncSystemAlertsParams{Acknowledged: changed}
	for _, o := range observations {
		params.Services = append(params.Services, o.Service)
		params.Healthy = append(params.Healthy, o.Status == Healthy)
		params.Reasons = append(params.Reasons, o.Reason())
	}
	err = p.fenced(ctx, token, func(q *db.Queries) error {
		if _, err := q.EnterAlertScope(ctx); err != nil {
			return fmt.Errorf("take on a role: %w", err)
		}
		row, err := q.SyncSystemAlerts(ctx, params)
		if err != nil {
			return fmt.Errorf("sync system alerts: %w", explain(err, alertAdvice))
		}
		opened, closed = row.Opened, row.Closed
		return nil
	})
	return opened, closed, err
}

// expireLimit is the server's time-out for a batch of expired samples: nothing
// waits for it.
const expireLimit = 30 * time.Second

// ExpireSamples does as the table's kind needs: nothing where TimescaleDB has a
// retention policy, whole chunks on a hypertable without one, a batch of
// deletes on a plain table. It looks at the lease but does not hold it: a
// take-over need not wait, and to remove what has expired twice is harmless.
func (p *Postgres) ExpireSamples(ctx context.Context, token Token, cutoff time.Time, batch int) (removed int64, more bool, err error) {
	err = p.inTxOf(ctx, expireLimit, func(q *db.Queries) error {
		lease, err := q.ReadLease(ctx, LeaseName)
		if db.IsNoRows(err) || (err == nil && !(lease.Held && token == Token{lease.Holder, lease.Epoch})) {
			return ErrLeaseLost
		}
		if err != nil {
			return fmt.Errorf("read lease: %w", err)
		}
		mode, err := q.RetentionMode(ctx)
		if err != nil {
			return fmt.Errorf("read retention mode: %w", err)
		}
		switch mode {
		case "policy":
			return nil
		case "hypertable":
			removed, err = q.DropExpiredChunks(ctx, cutoff)
		default:
			removed, err = q.DeleteExpiredSamples(ctx, db.DeleteExpiredSamplesParams{Cutoff: cutoff, BatchSize: int32(batch)})
			more = removed >= int64(batch)
		}
		if err != nil {
			return fmt.Errorf("expire samples: %w", err)
		}
		return nil
	})
	return removed, more, err
}

// HeldBy reads the lease without locking it.
func (p *Postgres) HeldBy(ctx context.Context) (holder string, held bool, err error) {
	err = p.retrying(ctx, func() error {
		row, err := db.New(p.pool).ReadLease(ctx, LeaseName)
		holder, held = row.Holder, row.Held
		return err
	})
	if db.IsNoRows(err) {
		return "", false, nil
	}
	return holder, held, err
}

// Touch fails where the database refuses writes.
func (p *Postgres) Touch(ctx context.Context) error {
	return p.retrying(ctx, func() error {
		_, err := db.New(p.pool).TouchLease(ctx, LeaseName)
		return err
	})
}

// Acquire takes the lease if it can be had.
func (p *Postgres) Acquire(ctx context.Context, holder string, ttl time.Duration) (grant Grant, err error) {
	err = p.inTx(ctx, func(q *db.Queries) error {
		if _, err := q.LockLease(ctx, LeaseName); err != nil {
			return fmt.Errorf("lock lease: %w", err)
		}
		row, err := q.AcquireLease(ctx, db.AcquireLeaseParams{Name: LeaseName, Holder: holder, TtlSeconds: ttl.Seconds()})
		if db.IsNoRows(err) {
			return ErrLeaseLost
		}
		grant = Grant(row)
		return err
	})
	return grant, err
}

// Renew extends the lease.
func (p *Postgres) Renew(ctx context.Context, token Token, ttl time.Duration) (now time.Time, err error) {
	err = p.inTx(ctx, func(q *db.Queries) error {
		now, err = q.RenewLease(ctx, db.RenewLeaseParams{Name: LeaseName, Holder: token.Holder, Epoch: token.Epoch, TtlSeconds: ttl.Seconds()})
		if db.IsNoRows(err) {
			return ErrLeaseLost
		}
		return err
	})
	return now, err
}

// Release hands the lease back.
func (p *Postgres) Release(ctx context.Context, token Token) error {
	n, err := db.New(p.pool).ReleaseLease(ctx, db.ReleaseLeaseParams{Name: LeaseName, Holder: token.Holder, Epoch: token.Epoch})
	if err == nil && n == 0 {
		return ErrLeaseLost
	}
	return err
}

// isRefusedData reports whether the server refused the rows themselves, which
// no repetition mends: a data exception or a violated constraint.
func isRefusedData(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (strings.HasPrefix(pgErr.Code, "22") || strings.HasPrefix(pgErr.Code, "23"))
}

// isTimeout reports whether the server gave a statement up for its duration.
func isTimeout(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "57014"
}

package collectors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/schema"
	"ops_worker/internal/spool"
)

// Store is what the collectors need of the database. Every write is fenced: if the
// token is not the lease's any more, it writes nothing and returns lease.ErrLost.
type Store interface {
	Ping(ctx context.Context) error
	// Aggregates reads the fast aggregates, in a cycle.
	Aggregates(ctx context.Context, list []db.Aggregate) Readings
	// AggregatesBeside reads slow aggregates, on connections of their own.
	AggregatesBeside(ctx context.Context, list []db.Aggregate) Readings
	// AppendCycles stores the cycles that are newer than the newest stored one, and
	// renews the lease. It returns how many samples were new, and the database's
	// clock. Repeating it is harmless; recheck says that this may be a repetition.
	AppendCycles(ctx context.Context, token lease.Token, cycles []spool.Cycle, recheck bool) (stored int, now time.Time, err error)
	// NewestValues reads the newest stored value of each series that has one.
	NewestValues(ctx context.Context, series []Series) (map[Series]float64, error)
	// SaveHealth writes the health rows, and how many checks in a row have found the
	// same. The checks count even if the database refuses the rows.
	SaveHealth(ctx context.Context, token lease.Token, at time.Time, observations []probe.Observation, streaks map[string]streak) error
	AlertStore
	// ExpireSamples removes about batch samples that are older than cutoff, and
	// reports whether there may be more.
	ExpireSamples(ctx context.Context, token lease.Token, cutoff time.Time, batch int) (removed int64, more bool, err error)
}

// Postgres is the Store on a real database.
type Postgres struct {
	client *db.Client
	beside *db.Client // for slow aggregates
	ttl    time.Duration
}

// NewPostgres makes the store. It reads slow aggregates on beside; an append renews the
// lease for ttl.
func NewPostgres(client, beside *db.Client, ttl time.Duration) *Postgres {
	return &Postgres{client: client, beside: beside, ttl: ttl}
}

// Ping runs a query.
func (p *Postgres) Ping(ctx context.Context) error {
	return p.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		_, err := q.Now(ctx)
		return err
	})
}

// Aggregates reads the fast aggregates, in a cycle.
func (p *Postgres) Aggregates(ctx context.Context, list []db.Aggregate) Readings {
	return readAggregates(ctx, p.client, list)
}

// AggregatesBeside reads slow aggregates, each within AGGREGATE_TIMEOUT.
func (p *Postgres) AggregatesBeside(ctx context.Context, list []db.Aggregate) Readings {
	r := readAggregates(ctx, p.beside, list)
	for name, reading := range r.Of {
		if db.IsTimeout(reading.Err) && db.IsServerError(reading.Err) {
			reading.Err = fmt.Errorf("it takes longer than AGGREGATE_TIMEOUT, %s: %w", p.beside.Limit, reading.Err)
			r.set(name, reading)
		}
	}
	return r
}

// AppendCycles appends cycles, oldest first, in one statement.
func (p *Postgres) AppendCycles(ctx context.Context, token lease.Token, cycles []spool.Cycle, recheck bool) (stored int, now time.Time, err error) {
	n := countSamples(cycles)
	params := db.AppendSamplesParams{
		Times:         make([]time.Time, 0, n),
		MetricNames:   make([]string, 0, n),
		Services:      make([]string, 0, n),
		Tags:          make([]string, 0, n),
		Values:        make([]float64, 0, n),
		LeaseName:     db.LeaseName,
		Holder:        token.Holder,
		Epoch:         token.Epoch,
		TtlSeconds:    p.ttl.Seconds(),
		FutureSeconds: lease.FutureLimit.Seconds(),
		Recheck:       recheck,
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
	var row db.AppendSamplesRow
	err = p.client.Write(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		row, err = q.AppendSamples(ctx, params)
		return err
	})
	if db.IsNoRows(err) {
		return 0, time.Time{}, lease.ErrLost
	}
	return int(row.Samples), row.Now, wrap(err, "append samples")
}

// Series identifies the points of one chart.
type Series struct{ Service, Metric string }

// NewestValues reads them in one statement.
func (p *Postgres) NewestValues(ctx context.Context, series []Series) (map[Series]float64, error) {
	params := db.NewestValuesParams{FutureSeconds: lease.FutureLimit.Seconds()}
	for _, s := range series {
		params.MetricNames = append(params.MetricNames, s.Metric)
		params.Services = append(params.Services, s.Service)
	}
	values := map[Series]float64{}
	err := p.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		rows, err := q.NewestValues(ctx, params)
		for _, r := range rows {
			values[Series{r.Service, r.MetricName}] = r.Value
		}
		return err
	})
	return values, wrap(err, "read the newest values")
}

// SaveHealth writes the rows and the counts of checks in a transaction each: if one
// table refuses, the other may not.
func (p *Postgres) SaveHealth(ctx context.Context, token lease.Token, at time.Time, observations []probe.Observation, streaks map[string]streak) error {
	rows := db.UpsertServiceHealthParams{CheckedAt: at}
	count := db.SaveStreaksParams{CheckedAt: at}
	for _, o := range observations {
		details, err := json.Marshal(detailsOf(o))
		if err != nil {
			return fmt.Errorf("encode details of %s: %w", o.Service, err)
		}
		rows.Services = append(rows.Services, o.Service)
		rows.Statuses = append(rows.Statuses, rowStatus(o))
		rows.LatenciesMs = append(rows.LatenciesMs, latencyMS(o))
		rows.Details = append(rows.Details, string(details))
		s := streaks[o.Service]
		count.Healthy = append(count.Healthy, s.Healthy)
		count.Since = append(count.Since, s.Since)
		count.Checks = append(count.Checks, int32(min(s.Checks, math.MaxInt32)))
	}
	count.Services = rows.Services
	err := lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		_, err := q.UpsertServiceHealth(ctx, rows)
		return wrap(err, "upsert service health")
	})
	if err != nil && (!db.IsServerError(err) || db.IsTimeout(err)) {
		return wrap(err, "health rows are not saved")
	}
	countErr := lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		return wrap(q.SaveStreaks(ctx, count), "save streaks")
	})
	return errors.Join(wrap(err, "health rows are not saved"), wrap(countErr, "checks are not counted"))
}

// ExpireSamples checks the lease but does not lock it: a take-over need not wait, and a
// second replica may safely remove the same samples.
func (p *Postgres) ExpireSamples(ctx context.Context, token lease.Token, cutoff time.Time, batch int) (removed int64, more bool, err error) {
	var expirer schema.Expirer
	if err := p.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		expirer, err = schema.FindExpirer(ctx, q)
		return err
	}); err != nil {
		return 0, false, fmt.Errorf("find out how samples expire: %w", err)
	}
	err = p.client.WriteWithin(ctx, expirer.Limit(), func(ctx context.Context, q *db.Queries) error {
		if err := lease.Check(ctx, q, token); err != nil {
			return fmt.Errorf("read lease: %w", err)
		}
		removed, more, err = expirer.Expire(ctx, q, cutoff, batch)
		return wrap(err, "expire samples")
	})
	return removed, more, err
}

// wrap adds a prefix to err, if there is one.
func wrap(err error, prefix string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", prefix, err)
}

package collectors

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/probe"
	"ops_worker/internal/schema"
	"ops_worker/internal/spool"
)

// Store is what the two collectors need of the database. Every write is fenced:
// it fails with lease.ErrLost, and has written nothing, when the token is not the
// lease's any more.
type Store interface {
	Ping(ctx context.Context) error
	// Aggregates reads what a cycle has time for.
	Aggregates(ctx context.Context, list []db.Aggregate) Readings
	// AggregatesBeside reads what no cycle has time for, on connections of its own.
	AggregatesBeside(ctx context.Context, list []db.Aggregate) Readings
	// AppendCycles stores what is newer than the newest stored cycle, renews
	// the lease, and returns how many samples were new and the database's
	// clock. Repeating it is harmless; recheck says that it may be a repetition.
	AppendCycles(ctx context.Context, token lease.Token, cycles []spool.Cycle, recheck bool) (stored int, now time.Time, err error)
	// NewestValues reads the newest stored value of each series; one that has none
	// is left out.
	NewestValues(ctx context.Context, series []Series) (map[Series]float64, error)
	// SaveHealth also counts the checks: it returns how many in a row have found
	// what this one finds, by service. Where the rows are refused the checks count
	// all the same.
	SaveHealth(ctx context.Context, token lease.Token, at time.Time, observations []probe.Observation) (checks map[string]int, err error)
	// SyncAlerts opens and closes system alerts; it names their services.
	// Acknowledged ones are closed only where changed says that a service may
	// have recovered since the last time: finding them takes a scan.
	SyncAlerts(ctx context.Context, token lease.Token, observations []probe.Observation, changed bool) (opened, closed []string, err error)
	// ExpireSamples removes about batch samples that are older than cutoff; more
	// tells that there may be more of them.
	ExpireSamples(ctx context.Context, token lease.Token, cutoff time.Time, batch int) (removed int64, more bool, err error)
}

// Postgres is the Store on a real database.
type Postgres struct {
	client *db.Client
	beside *db.Client // for aggregates that take long
	ttl    time.Duration
}

// NewPostgres makes the store. Aggregates that take long are read on beside; an append
// renews the lease for ttl.
func NewPostgres(client, beside *db.Client, ttl time.Duration) *Postgres {
	return &Postgres{client: client, beside: beside, ttl: ttl}
}

var _ Store = (*Postgres)(nil)

// Ping runs a query.
func (p *Postgres) Ping(ctx context.Context) error {
	return p.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		_, err := q.Now(ctx)
		return err
	})
}

// Aggregates reads what a cycle has time for.
func (p *Postgres) Aggregates(ctx context.Context, list []db.Aggregate) Readings {
	return readAggregates(ctx, p.client, list)
}

// AggregatesBeside reads with the limit of what no cycle has time for.
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

// AppendCycles appends cycles, which are in order.
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
	stored, now = int(row.Samples), row.Now
	switch {
	case db.IsNoRows(err):
		err = lease.ErrLost
	case err != nil:
		err = fmt.Errorf("append samples: %w", err)
	}
	return stored, now, err
}

// Series is what the points of a chart have in common.
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
	if err != nil {
		return nil, fmt.Errorf("read the newest values: %w", err)
	}
	return values, nil
}

// SaveHealth upserts the row of every observed service, and its streak, in a
// transaction each: what one table refuses, the other may take.
func (p *Postgres) SaveHealth(ctx context.Context, token lease.Token, at time.Time, observations []probe.Observation) (checks map[string]int, err error) {
	rows := db.UpsertServiceHealthParams{CheckedAt: at}
	count := db.CountChecksParams{CheckedAt: at}
	for _, o := range observations {
		details, err := detailsOf(o)
		if err != nil {
			return nil, fmt.Errorf("encode details of %s: %w", o.Service, err)
		}
		rows.Services = append(rows.Services, o.Service)
		rows.Statuses = append(rows.Statuses, rowStatus(o))
		rows.LatenciesMs = append(rows.LatenciesMs, latencyMS(o))
		rows.Details = append(rows.Details, details)
		count.Healthy = append(count.Healthy, o.Up())
	}
	count.Services = rows.Services
	err = lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		_, err := q.UpsertServiceHealth(ctx, rows)
		return wrap(err, "upsert service health")
	})
	if err != nil && (!db.IsServerError(err) || db.IsTimeout(err)) {
		return nil, wrap(err, "health rows are not saved")
	}
	countErr := lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		streaks, err := q.CountChecks(ctx, count)
		checks = make(map[string]int, len(streaks))
		for _, s := range streaks {
			checks[s.Service] = int(s.Checks)
		}
		return wrap(err, "count checks")
	})
	if countErr != nil {
		checks = nil
	}
	return checks, errors.Join(wrap(err, "health rows are not saved"), wrap(countErr, "checks are not counted, each is enough for its alert"))
}

// wrap adds a prefix to an error, if there is one.
func wrap(err error, undone string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", undone, err)
}

// SyncAlerts brings the system alerts in line with the observations: those that close
// in one statement, and each that opens in its own, since one that the database refuses
// must keep no other from opening or closing.
func (p *Postgres) SyncAlerts(ctx context.Context, token lease.Token, observations []probe.Observation, changed bool) (opened, closed []string, err error) {
	var well []probe.Observation
	var attempts [][]probe.Observation
	for _, o := range observations {
		if o.Up() {
			well = append(well, o)
		} else {
			attempts = append(attempts, []probe.Observation{o})
		}
	}
	if len(well) > 0 {
		attempts = append(attempts, well)
	}
	for _, attempt := range attempts {
		o, c, failed := p.syncAlerts(ctx, token, attempt, changed)
		opened, closed = append(opened, o...), append(closed, c...)
		if failed != nil && !attempt[0].Up() {
			failed = fmt.Errorf("%s: %w", attempt[0].Service, failed)
		}
		err = errors.Join(err, failed)
		if failed != nil && !db.IsServerError(failed) {
			break // no lease, or no connection
		}
	}
	return opened, closed, err
}

func (p *Postgres) syncAlerts(ctx context.Context, token lease.Token, observations []probe.Observation, changed bool) (opened, closed []string, err error) {
	params := db.SyncSystemAlertsParams{Acknowledged: changed}
	for _, o := range observations {
		params.Services = append(params.Services, o.Service)
		params.Healthy = append(params.Healthy, o.Up())
		params.Reasons = append(params.Reasons, o.Reason())
	}
	err = lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		if _, err := q.EnterPlatformScope(ctx); err != nil {
			return fmt.Errorf("take on a role: %w", err)
		}
		row, err := q.SyncSystemAlerts(ctx, params)
		if err != nil {
			return fmt.Errorf("sync system alerts: %w", explain(err, alertAdvice))
		}
		opened, closed = row.Opened, row.Closed
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return opened, closed, nil
}

// ExpireSamples does as the table's kind needs. It looks at the lease but does not hold
// it: a take-over need not wait, and to remove what has expired twice is harmless.
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
		if removed, more, err = expirer.Expire(ctx, q, cutoff, batch); err != nil {
			return fmt.Errorf("expire samples: %w", err)
		}
		return nil
	})
	return removed, more, err
}

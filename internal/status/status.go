// Package status reads how the platform is from the database alone, for the moment
// when the API, and with it the dashboard, is what is down: the services and how
// available they were, the open alerts, the newest numbers and who collects them. It writes nothing, and needs no
// right but to read; what it may not or cannot read costs its own section.
package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/schema"
)

// readTimeout bounds a reading.
const readTimeout = 5 * time.Second

// watchedShare is the part of a span in which a service must have been watched, or its
// availability in that span is not known.
const watchedShare = 0.9

// The sparklines: an hour in buckets of three minutes, a character each, so that they fit
// into 80 columns.
const (
	buckets = 20
	bucket  = 3 * time.Minute
)

// Reader reads the status of one database.
type Reader struct {
	pool            *pgxpool.Pool
	client          *db.Client
	metrics, health time.Duration
	// timeout is readTimeout, but in tests.
	timeout time.Duration
}

// Open makes a reader of the database that cfg names, without waiting for it.
func Open(ctx context.Context, cfg config.Config) (*Reader, error) {
	options := db.OptionsFrom(cfg.Database, cfg.ServiceName+"_status")
	// One at a time is in use; those of readings that got no answer take a while to
	// close.
	options.MinConns, options.MaxConns = 0, 4
	options.ConnectTimeout = min(options.ConnectTimeout, readTimeout)
	pool, err := db.Open(ctx, options)
	if err != nil {
		return nil, err
	}
	return &Reader{pool: pool, client: db.NewClient(pool, readTimeout), metrics: cfg.MetricsInterval, health: cfg.HealthInterval, timeout: readTimeout}, nil
}

// Close frees the connections.
func (r *Reader) Close() { db.Close(r.pool) }

// Read reads everything anew, but for the sections to leave out. It fails when the
// database cannot be asked, goes away meanwhile, or has none of the worker's tables; the
// error holds no secret.
func (r *Reader) Read(ctx context.Context, leaveOut ...Section) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	g := gathering{unreadable: map[Section]string{}}
	err := db.Unreachable(r.pool, r.gather(ctx, &g, leaveOut))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil {
		err = &db.UnreachableError{Cause: "no answer within " + r.timeout.String(), Target: r.target()}
	}
	if err != nil {
		return Report{}, err
	}
	return g.report(r.metrics, r.health), nil
}

func (r *Reader) target() string { return db.Target(r.pool.Config().ConnConfig.Config) }

// gathering is what the sections brought back, as the database has it.
type gathering struct {
	server       db.StatusServerRow
	replayedAt   time.Time // of a standby; the epoch or zero where that is not known
	lease        *db.ReadLeaseRow
	services     []db.StatusServicesRow
	streaks      []db.StatusStreaksRow
	alerts       []db.OpenSystemAlertsRow
	windows      maintenance.Windows
	availability []db.StatusAvailabilityRow // nil if it was not read
	series       []db.StatusSeriesRow
	unreadable   map[Section]string
	// What is being read, as which role, for the reason of a failure.
	table, role string
}

// sections are in the order of reading, each with the table that it reads first: the
// section that may take the longest comes last, when all the time that is left is its
// own.
var sections = []struct {
	name     Section
	table    string
	platform bool // the table is the platform's, not the worker's own
}{
	{LeaderSection, schema.LeaseTable, false}, {ServicesSection, "service_health", false}, {SinceSection, "ops_worker_streak", false},
	{AlertsSection, "fleet_alert", true}, {MaintenanceSection, "alert_maintenance_windows", true},
	{AvailabilitySection, "ops_worker_watch", false}, {SeriesSection, "system_metrics", false},
}

func (g *gathering) readSection(ctx context.Context, q *db.Queries, name Section) (err error) {
	switch name {
	case LeaderSection:
		lease, err := q.ReadLease(ctx, db.LeaseName)
		if db.IsNoRows(err) { // nobody has ever led
			return nil
		}
		g.lease = &lease
		return err
	case ServicesSection:
		g.services, err = q.StatusServices(ctx)
	case SinceSection:
		g.streaks, err = q.StatusStreaks(ctx)
	case AlertsSection:
		g.alerts, err = q.OpenSystemAlerts(ctx)
	case MaintenanceSection:
		g.windows, err = maintenance.Read(ctx, q)
		if errors.Is(err, maintenance.ErrNoTable) { // an older release
			return nil
		}
	case AvailabilitySection:
		return g.readAvailability(ctx, q)
	case SeriesSection:
		g.series, err = q.StatusSeries(ctx, db.StatusSeriesParams{BucketSeconds: bucket.Seconds(), Buckets: buckets})
	}
	return err
}

func (g *gathering) enterPlatformScope(ctx context.Context, q *db.Queries) (err error) {
	role, err := q.EnterPlatformScope(ctx)
	if err == nil {
		g.role = role
	}
	return err
}

// readAvailability reads the worker's own table as the login role, and the platform's
// in the platform's scope, so that the operator's role needs no right to the former.
func (g *gathering) readAvailability(ctx context.Context, q *db.Queries) error {
	watched, err := q.StatusWatched(ctx)
	if err != nil {
		return err
	}
	if err := g.enterPlatformScope(ctx, q); err != nil {
		return err
	}
	g.table = "fleet_alert"
	params := db.StatusAvailabilityParams{WatchedShare: watchedShare}
	for _, w := range watched {
		params.Services = append(params.Services, w.Service)
		params.BeganAts = append(params.BeganAts, w.BeganAt)
		params.EndedAts = append(params.EndedAts, w.EndedAt)
	}
	g.availability, err = q.StatusAvailability(ctx, params)
	return err
}

// gather reads section by section, each in a transaction of its own, all on one
// connection: a database that has none to spare is when one looks.
func (r *Reader) gather(ctx context.Context, g *gathering, leaveOut []Section) error {
	_, err := r.read(ctx, len(sections)+1, func(ctx context.Context, q *db.Queries) (err error) {
		g.server, err = q.StatusServer(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if g.server.Standby {
		// Some managed servers refuse the function: then the lag is not known.
		_, err := r.read(ctx, len(sections)+1, func(ctx context.Context, q *db.Queries) (err error) {
			g.replayedAt, err = q.StatusReplay(ctx)
			return err
		})
		if err != nil && !ofItsSection(err) {
			return err
		}
	}
	found := false // one of the worker's own tables
	for i, s := range sections {
		if slices.Contains(leaveOut, s.name) {
			continue
		}
		limit, err := r.read(ctx, len(sections)-i, func(ctx context.Context, q *db.Queries) error {
			g.table, g.role = s.table, g.server.LoginRole
			if s.platform {
				if err := g.enterPlatformScope(ctx, q); err != nil {
					return err
				}
			}
			return g.readSection(ctx, q, s.name)
		})
		if err != nil && !ofItsSection(err) {
			return err
		}
		if err != nil {
			g.unreadable[s.name] = g.reason(err, limit)
		}
		found = found || !s.platform && !db.IsMissingTable(err)
	}
	if !found {
		return fmt.Errorf("none of the worker's tables is there: %s; is it the right database? `ops-worker migrate up` makes them, or says why not", r.target())
	}
	return nil
}

// ofItsSection reports whether an error is one section's own: the server's about
// its table, or a value that cannot be read. Any other is of the connection, and
// half a report in the place of a whole one would help nobody.
func ofItsSection(err error) bool {
	var scan pgx.ScanArgError
	return errors.As(err, &scan) || db.IsServerError(err)
}

// read runs fn in a transaction that only reads, and once more where its
// connection had died. Its statements may take their share of the time that is
// left for so many sections, so that a table that is locked costs no other one.
func (r *Reader) read(ctx context.Context, sectionsLeft int, fn func(context.Context, *db.Queries) error) (limit time.Duration, err error) {
	deadline, _ := ctx.Deadline()
	limit = time.Until(deadline) * 9 / 10 / time.Duration(sectionsLeft)
	return limit, r.client.ReadWithin(ctx, db.Limits{Statement: limit, Lock: limit / 4}, fn)
}

// reason says in a few words why what is being read could not be read.
func (g *gathering) reason(err error, limit time.Duration) string {
	switch {
	case db.IsRowSecurity(err):
		return fmt.Sprintf("row-level security would hide rows of %s from %s", g.table, g.role)
	case db.IsForbidden(err):
		return fmt.Sprintf("%s may not read %s", g.role, g.table)
	case db.IsMissingTable(err):
		return "there is no table " + g.table
	case db.IsLocked(err):
		return g.table + " is locked"
	case db.IsTimeout(err):
		return fmt.Sprintf("%s was not read within %s", g.table, limit.Round(100*time.Millisecond))
	}
	return clean(db.RootCause(err).Error())
}

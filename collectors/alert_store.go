package collectors

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/notify"
)

// Streaks reads them without the lease: they are of a term that is over.
func (p *Postgres) Streaks(ctx context.Context) (map[string]streak, error) {
	streaks := map[string]streak{}
	err := p.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		rows, err := q.ReadStreaks(ctx)
		for _, r := range rows {
			streaks[r.Service] = streak{Healthy: r.Healthy, Since: r.Since, Checks: int(r.Checks), CheckedAt: r.CheckedAt}
		}
		return err
	})
	return streaks, wrap(err, "read streaks")
}

// Windows reads them in a transaction of its own, which a missing right ends.
func (p *Postgres) Windows(ctx context.Context) (windows maintenance.Windows, err error) {
	err = p.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		if err := enterPlatformScope(ctx, q); err != nil {
			return err
		}
		windows, err = maintenance.Read(ctx, q)
		return err
	})
	return windows, err
}

func enterPlatformScope(ctx context.Context, q *db.Queries) error {
	_, err := q.EnterPlatformScope(ctx)
	return wrap(err, "take on a role")
}

// enterForAWhile returns the role before, for LeavePlatformScope.
func enterForAWhile(ctx context.Context, q *db.Queries) (login string, err error) {
	if login, err = q.CurrentRole(ctx); err != nil {
		return "", fmt.Errorf("read role: %w", err)
	}
	return login, enterPlatformScope(ctx, q)
}

// OpenAlert opens it in a transaction of its own.
func (p *Postgres) OpenAlert(ctx context.Context, token lease.Token, i incident) (opened bool, err error) {
	err = lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		if err := enterPlatformScope(ctx, q); err != nil {
			return err
		}
		rows, err := q.OpenSystemAlert(ctx, db.OpenSystemAlertParams{
			Fingerprint: i.Fingerprint(), OpenedAt: i.Opened, Summary: i.Summary(), Details: string(i.Details)})
		opened = rows > 0
		return wrap(explain(err, alertAdvice), "open system alert")
	})
	return opened && err == nil, err
}

// CloseAlert closes it in a transaction of its own.
func (p *Postgres) CloseAlert(ctx context.Context, token lease.Token, over incident, tell bool) (closed bool, err error) {
	err = lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		login, err := enterForAWhile(ctx, q)
		if err != nil {
			return err
		}
		openedAt, err := q.CloseSystemAlert(ctx, db.CloseSystemAlertParams{
			Fingerprint: over.Fingerprint(), OpenedAt: over.Opened, ClosedAt: over.Closed, Summary: over.Summary(), Details: cmp.Or(string(over.Details), "{}")})
		if closed = openedAt.After(time.Unix(0, 0)); err != nil || !closed || !tell {
			return wrap(explain(err, alertAdvice), "close system alert")
		}
		if err := q.LeavePlatformScope(ctx, login); err != nil {
			return fmt.Errorf("leave a role: %w", err)
		}
		return wrap(q.TrackMessages(ctx, db.TrackMessagesParams{Fingerprints: []string{over.Fingerprint()}, OpenedAts: []time.Time{openedAt}}), "note down a message")
	})
	return closed && err == nil, err
}

// OpenAlerts notes down and reads in one transaction, so that an alert that has opened is
// told, and that it has closed, whichever process then leads.
func (p *Postgres) OpenAlerts(ctx context.Context, token lease.Token, tell bool) (open []incident, due []notify.Event, err error) {
	err = lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		login, err := enterForAWhile(ctx, q)
		if err != nil {
			return err
		}
		if open, err = readOpenAlerts(ctx, q); err != nil || !tell {
			return wrap(explain(err, alertAdvice), "read open alerts")
		}
		due, err = dueMessages(ctx, q, login, open)
		return err
	})
	return open, due, err
}

func readOpenAlerts(ctx context.Context, q *db.Queries) (open []incident, err error) {
	rows, err := q.OpenSystemAlerts(ctx)
	for _, r := range rows {
		if r.Monitored {
			open = append(open, incident{Alert: notify.Alert{Service: r.Service, Status: r.Health, Reason: r.Reason, Opened: r.CreatedAt}})
		}
	}
	return open, err
}

// dueMessages notes down the open alerts, and returns the openings and closings of which
// nobody has been told.
func dueMessages(ctx context.Context, q *db.Queries, login string, open []incident) (due []notify.Event, err error) {
	var track db.TrackMessagesParams
	for _, i := range open {
		track.Fingerprints, track.OpenedAts = append(track.Fingerprints, i.Fingerprint()), append(track.OpenedAts, i.Opened)
	}
	if err := q.LeavePlatformScope(ctx, login); err != nil {
		return nil, fmt.Errorf("leave a role: %w", err)
	}
	if err := q.TrackMessages(ctx, track); err != nil {
		return nil, fmt.Errorf("note down messages: %w", err)
	}
	if err := enterPlatformScope(ctx, q); err != nil {
		return nil, err
	}
	rows, err := q.DueMessages(ctx)
	for _, r := range rows {
		alert := notify.Alert{Service: notify.ServiceOf(r.Fingerprint), Status: r.Health, Reason: r.Reason, Opened: r.OpenedAt}
		if r.Opening {
			due = append(due, notify.Event{Alert: alert})
		}
		if r.Closing {
			alert.Closed = r.ClosedAt
			due = append(due, notify.Event{Alert: alert, Closing: true})
		}
	}
	return due, wrap(err, "read messages")
}

// MarkTold marks what has been told.
func (p *Postgres) MarkTold(ctx context.Context, token lease.Token, told []notify.Event) error {
	var params db.MarkToldParams
	for _, e := range told {
		params.Fingerprints = append(params.Fingerprints, e.Fingerprint())
		params.OpenedAts = append(params.OpenedAts, e.Opened)
		params.Closings = append(params.Closings, e.Closing)
	}
	return lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error { return q.MarkTold(ctx, params) })
}

// NoteWatch also removes what is too old to be asked for.
func (p *Postgres) NoteWatch(ctx context.Context, token lease.Token, services []string, since, at time.Time, tolerance time.Duration) error {
	return lease.Fenced(ctx, p.client, token, func(ctx context.Context, q *db.Queries) error {
		if err := q.ForgetWatch(ctx); err != nil {
			return err
		}
		return q.NoteWatch(ctx, db.NoteWatchParams{Services: services, BeganAt: since, CheckedAt: at, ToleranceSeconds: tolerance.Seconds()})
	})
}

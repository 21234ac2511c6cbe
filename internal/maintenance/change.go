package maintenance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"ops_worker/db"
)

// limits bound each statement of a command.
var limits = db.Limits{Statement: 10 * time.Second, Lock: 10 * time.Second}

// Start makes a window that is on from now on. No services are all.
func Start(ctx context.Context, on db.Beginner, reason string, services []string, length time.Duration) (w Window, err error) {
	err = inScope(ctx, on, db.ReadWrite, func(q *db.Queries, _ Windows, _ time.Time) error {
		row, err := q.StartMaintenanceWindow(ctx, db.StartMaintenanceWindowParams{Name: reason, Services: services, Seconds: length.Seconds()})
		w = Window{ID: row.WindowID, Name: reason, Starts: row.StartsAt, Ends: row.EndsAt, Services: services}
		return err
	})
	return w, err
}

// List returns the windows that are on or to come, and the database's clock.
func List(ctx context.Context, on db.Beginner) (windows Windows, now time.Time, err error) {
	err = inScope(ctx, on, db.ReadOnly, func(_ *db.Queries, found Windows, at time.Time) error {
		windows, now = found, at
		return nil
	})
	return windows, now, err
}

// End ends the windows with these IDs, all or none of them; without IDs, those that are
// on and do not come back.
func End(ctx context.Context, on db.Beginner, ids []string) (ended Windows, err error) {
	err = inScope(ctx, on, db.ReadWrite, func(q *db.Queries, windows Windows, now time.Time) error {
		for _, id := range ids {
			if !slices.ContainsFunc(windows, func(w Window) bool { return w.ID == id }) {
				return fmt.Errorf("no window %q is on or to come, so none was ended; `ops-worker maintenance list` shows them", id)
			}
		}
		for _, w := range windows {
			running := w.Weekly == nil && w.On(now)
			if !slices.Contains(ids, w.ID) && (len(ids) > 0 || !running) {
				continue
			}
			if err := q.EndMaintenanceWindow(ctx, db.EndMaintenanceWindowParams{WindowID: w.ID, SwitchOff: !running}); err != nil {
				return err
			}
			ended = append(ended, w)
		}
		if len(ended) == 0 {
			return errors.New("no one-time window is on; a weekly one ends by its ID, which `ops-worker maintenance list` shows")
		}
		return nil
	})
	return ended, err
}

// inScope runs fn in a transaction that may read and write the platform's tables, with
// the windows and the database's clock.
func inScope(ctx context.Context, on db.Beginner, options pgx.TxOptions, fn func(*db.Queries, Windows, time.Time) error) error {
	err := db.InTx(ctx, on, options, limits, func(q *db.Queries) error {
		if _, err := q.EnterPlatformScope(ctx); err != nil {
			return fmt.Errorf("take on a role: %w", err)
		}
		windows, err := Read(ctx, q)
		if err != nil {
			return err
		}
		now, err := q.Now(ctx)
		if err != nil {
			return err
		}
		windows = slices.DeleteFunc(windows, func(w Window) bool { return !w.Ends.IsZero() && !now.Before(w.Ends) })
		return fn(q, windows, now)
	})
	if db.IsForbidden(err) {
		return fmt.Errorf("%w; `ops-worker grants ROLE` prints what the worker's login role needs", err)
	}
	return err
}

package collectors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/humanize"
	"ops_worker/internal/lease"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/notify"
	"ops_worker/internal/probe"
)

// AlertStore is what system alerts need of the database, beside SaveHealth. Every write
// is fenced, as those of Store.
type AlertStore interface {
	// Streaks reads how many checks in a row have found the same, by service.
	Streaks(ctx context.Context) (map[string]streak, error)
	// Windows reads the maintenance windows; maintenance.ErrNoTable where the release
	// of the platform has none.
	Windows(ctx context.Context) (maintenance.Windows, error)
	// OpenAlert opens an alert, unless its service has one, and reports whether it did.
	OpenAlert(ctx context.Context, token lease.Token, i incident) (opened bool, err error)
	// CloseAlert closes an alert, also one that the database does not have yet, and
	// reports whether that changed anything. If somebody is to be told, it notes that down.
	CloseAlert(ctx context.Context, token lease.Token, over incident, tell bool) (closed bool, err error)
	// OpenAlerts reads the alerts that are open. If somebody is to be told, it also
	// notes them down, and returns the openings and closings of which nobody has been.
	OpenAlerts(ctx context.Context, token lease.Token, tell bool) (open []incident, due []notify.Event, err error)
	// MarkTold notes down that somebody has been told.
	MarkTold(ctx context.Context, token lease.Token, told []notify.Event) error
	// NoteWatch notes down that services were checked from since to at.
	NoteWatch(ctx context.Context, token lease.Token, services []string, since, at time.Time, tolerance time.Duration) error
}

// alertKeeper keeps fleet_alert as the judge decides, and tells of it. What it could not
// store it keeps, in SPOOL_DIR as well where there is one.
type alertKeeper struct {
	enabled bool // SYSTEM_ALERT_ENABLED
	judge   *judge
	store   AlertStore
	lease   *lease.Lease
	webhook teller // nil where nobody is told
	spool   *queue

	known     lease.Token     // the term in which the judge knows what the database has
	due       []notify.Event  // by the database, as it was read last
	untracked bool            // the table of messages is missing or forbidden
	unread    faultlog.Log    // of the maintenance windows
	windows   map[string]bool // whether each was on, by ID

	keeping  sync.Mutex   // of what follows: the lease reports from a goroutine of its own
	unkept   faultlog.Log // of the spool
	spoolHas bool
}

// teller tells somebody of alerts, as notify.Webhook.
type teller interface {
	Tell(now time.Time, due []notify.Event, firing []notify.Alert) (told []notify.Event)
}

func newAlertKeeper(cfg config.Config, store AlertStore, lease *lease.Lease, webhook teller, spool *queue, log zerolog.Logger) *alertKeeper {
	var left record
	if err := spool.kept(&left); err != nil {
		log.Error().Err(err).Msg("alerts of an earlier process are lost")
		left = record{} // rather than half of it
	}
	return &alertKeeper{enabled: cfg.SystemAlerts, judge: newJudge(cfg, left), store: store, lease: lease, webhook: webhook, spool: spool, spoolHas: left.Streaks != nil, windows: map[string]bool{}}
}

// resume tells the judge what the database has, at the first check of a term.
func (k *alertKeeper) resume(ctx context.Context, token lease.Token) error {
	if token == k.known {
		return nil
	}
	k.due = nil // of an earlier term: another leader has told since
	streaks, err := k.store.Streaks(ctx)
	if err != nil {
		return fmt.Errorf("earlier checks are not known: %w", err)
	}
	k.judge.resume(streaks)
	if k.enabled {
		if err := k.refresh(ctx, token); err != nil {
			return err
		}
	}
	k.known = token
	return nil
}

// refresh reads which alerts are open, and of which events nobody has been told.
func (k *alertKeeper) refresh(ctx context.Context, token lease.Token) error {
	open, due, err := k.store.OpenAlerts(ctx, token, k.webhook != nil)
	unread := err
	if k.untracked = db.IsMissingTable(err) || db.IsForbidden(err); k.untracked { // of the messages, perhaps
		open, due, unread = k.store.OpenAlerts(ctx, token, false)
	}
	if unread == nil {
		k.judge.refresh(open)
		k.due = due
	}
	return wrap(err, "open system alerts are not known")
}

// cycle brings the alerts in line with a check that the judge has counted.
func (k *alertKeeper) cycle(ctx context.Context, token lease.Token, at time.Time, checked []probe.Observation, away bool) (err error) {
	if !away {
		k.readWindows(ctx, at)
	}
	events := k.judge.decide(at, checked)
	if !away {
		if err = k.sync(ctx, token, at, checked); errors.Is(err, lease.ErrLost) {
			return fmt.Errorf("system alerts are not saved: %w", err)
		}
	}
	stored := err == nil && !away
	if !stored {
		if k.webhook != nil {
			k.judge.keep(events)
		}
		k.keep(*zerolog.Ctx(ctx), stored) // before anybody hears of it, or after a crash nobody tells its end
	}
	err = wrap(errors.Join(err, k.tell(ctx, token, at, away || isAway(err))), "system alerts are not saved")
	if stored {
		k.keep(*zerolog.Ctx(ctx), stored)
	}
	return err
}

// readWindows reads the maintenance windows. Those that were read last are kept while
// they cannot be read.
func (k *alertKeeper) readWindows(ctx context.Context, at time.Time) {
	windows, err := k.store.Windows(ctx)
	if errors.Is(err, maintenance.ErrNoTable) {
		windows, err = nil, nil
	}
	for _, w := range windows {
		log := zerolog.Ctx(ctx).With().Str("window", w.ID).Str("name", humanize.OneLine(w.Name)).Strs("monitored", w.Services).Logger()
		was, known := k.windows[w.ID]
		on := w.On(at)
		switch {
		case w.Fault != "" && !known:
			log.Warn().Str("reason", w.Fault).Msg("a maintenance window cannot be read, it is never on")
		case on && !was:
			log.Info().Msg("a maintenance window is on, no alert opens")
		case was && !on:
			log.Info().Msg("a maintenance window is over")
		}
		k.windows[w.ID] = on
	}
	if k.unread.Observe(*zerolog.Ctx(ctx), err, "maintenance windows cannot be read, alerts go on", "maintenance windows are read again"); err == nil {
		k.judge.plan(windows)
	}
}

// sync writes what the database lacks, each alert for itself: one that is refused does not
// affect the others.
func (k *alertKeeper) sync(ctx context.Context, token lease.Token, at time.Time, checked []probe.Observation) error {
	log := zerolog.Ctx(ctx)
	var failed error
	for _, over := range k.judge.over() {
		closed, err := k.store.CloseAlert(ctx, token, over, k.webhook != nil && !k.untracked)
		if failed = errors.Join(failed, wrap(err, over.Service)); err == nil {
			k.judge.closed(over)
		} else if !db.IsServerError(err) {
			return failed // no lease, or no connection
		}
		if closed {
			log.Info().Str("monitored", over.Service).Time("from", over.Opened).Time("to", over.Closed).Msg("system alert closed")
		}
	}
	for _, i := range k.judge.standing(at, checked) {
		opened, err := k.store.OpenAlert(ctx, token, i)
		if failed = errors.Join(failed, wrap(err, i.Service)); err != nil && !db.IsServerError(err) {
			return failed
		}
		if opened {
			log.Warn().Str("monitored", i.Service).Str("status", i.Status).Str("reason", i.Reason).Msg("system alert opened")
		}
	}
	if failed == nil { // or status would call a service well whose alert is refused
		failed = k.noteWatch(ctx, token, at, checked)
	}
	return errors.Join(failed, k.refresh(ctx, token))
}

// noteWatch notes down for status that the services were watched until now.
func (k *alertKeeper) noteWatch(ctx context.Context, token lease.Token, at time.Time, checked []probe.Observation) error {
	services := make([]string, len(checked))
	for i, o := range checked {
		services[i] = o.Service
	}
	err := k.store.NoteWatch(ctx, token, services, k.judge.watchedSince(), at, k.judge.tolerance())
	if err == nil {
		k.judge.noted()
	}
	return wrap(err, "note the watch")
}

// tell tells of what is due, but during maintenance, and notes down of what somebody has
// been told.
func (k *alertKeeper) tell(ctx context.Context, token lease.Token, at time.Time, away bool) error {
	if k.webhook == nil {
		return nil
	}
	due, firing := k.judge.due(at, k.due)
	told := k.webhook.Tell(at, due, firing)
	if len(told) == 0 || away {
		return nil
	}
	if !k.untracked {
		if err := k.store.MarkTold(ctx, token, told); err != nil {
			return fmt.Errorf("note down what was told: %w", err)
		}
	}
	k.judge.forget(told, false)
	return nil
}

// finish notes down at the end of a term what has been told since the last check, so that
// the next leader does not tell it again.
func (k *alertKeeper) finish(ctx context.Context) error {
	if k.known == (lease.Token{}) || !k.enabled {
		return nil
	}
	return k.tell(ctx, k.known, k.lease.Now().Truncate(time.Microsecond), false)
}

// superseded is called while another replica leads, which tells what is in the database.
// What this process has told by itself is over.
func (k *alertKeeper) superseded(log zerolog.Logger) {
	untold, begins := k.judge.standBy()
	if k.webhook == nil || (!begins && len(untold) == 0) {
		return
	}
	if told := k.webhook.Tell(k.lease.Now(), untold, nil); begins || len(told) > 0 {
		k.judge.forget(told, true)
		k.keep(log, true) // or each process after this one would tell it again
	}
}

// keep keeps in the spool what the database lacks, for the process after this one.
func (k *alertKeeper) keep(log zerolog.Logger, stored bool) {
	k.keeping.Lock()
	defer k.keeping.Unlock()
	var note any
	if record := k.judge.unsaved(!stored); record != nil {
		note = record
	} else if !k.spoolHas {
		return
	}
	err := k.spool.keep(note)
	k.spoolHas = note != nil || err != nil
	k.unkept.Observe(log, err, "the spool cannot be written, alerts are kept in memory alone", "the spool is written again")
}

// hasEvent reports whether an event is among others.
func hasEvent(events []notify.Event, e notify.Event) bool { return slices.ContainsFunc(events, e.Same) }

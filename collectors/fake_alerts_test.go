package collectors

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ops_worker/internal/lease"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/notify"
)

// fakeAlerts is what a fakeStore has of alerts.
type fakeAlerts struct {
	open     map[string]string // service → reason
	opened   map[string]time.Time
	past     []incident // closed, in the order of their closing
	streaks  map[string]streak
	windows  maintenance.Windows
	messages map[string]message // by key
	watched  [][2]time.Time
	Refuse   string // a service whose alert the table refuses
}

// message is an alert of which somebody is to be told.
type message struct {
	notify.Alert
	openingTold, tracked bool
}

func (f *fakeStore) Streaks(context.Context) (map[string]streak, error) {
	f.Lock()
	defer f.Unlock()
	return maps.Clone(f.streaks), f.Begin("streaks")
}

func (f *fakeStore) Windows(context.Context) (maintenance.Windows, error) {
	f.Lock()
	defer f.Unlock()
	return f.windows, f.Begin("windows")
}

func (f *fakeStore) CloseAlert(_ context.Context, token lease.Token, over incident, tell bool) (bool, error) {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("record"), f.Fence(token)); err != nil {
		return false, err
	}
	_, isOpen := f.open[over.Service]
	if isOpen && f.opened[over.Service].Equal(over.Opened) {
		delete(f.open, over.Service)
	} else if isOpen && f.opened[over.Service].Before(over.Closed) || slices.ContainsFunc(f.past, func(p incident) bool {
		return p.Service == over.Service && p.Opened.Before(over.Closed) && over.Opened.Before(p.Closed)
	}) {
		return false, nil
	}
	f.past = append(f.past, over)
	f.messages[over.Key()] = message{over.Alert, f.messages[over.Key()].openingTold, tell}
	return true, nil
}

func (f *fakeStore) OpenAlert(_ context.Context, token lease.Token, i incident) (bool, error) {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("alerts"), f.Fence(token)); err != nil {
		return false, err
	}
	if i.Service == f.Refuse {
		return false, &pgconn.PgError{Code: "23514", Severity: "ERROR"}
	}
	if _, isOpen := f.open[i.Service]; isOpen {
		return false, nil
	}
	f.open[i.Service], f.opened[i.Service] = i.Reason, i.Opened
	f.messages[i.Key()] = message{Alert: i.Alert}
	return true, nil
}

func (f *fakeStore) OpenAlerts(_ context.Context, token lease.Token, tell bool) (open []incident, due []notify.Event, err error) {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("open"), f.Fence(token)); err != nil {
		return nil, nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(f.messages)) {
		m := f.messages[key]
		if _, isOpen := f.open[m.Service]; isOpen && m.Closed.IsZero() {
			open = append(open, incident{Alert: m.Alert})
			m.tracked = m.tracked || tell
			f.messages[key] = m
		}
		if tell && m.tracked && !m.openingTold {
			due = append(due, notify.Event{Alert: m.Alert})
		}
		if tell && m.tracked && !m.Closed.IsZero() {
			due = append(due, notify.Event{Alert: m.Alert, Closing: true})
		}
	}
	return open, due, nil
}

func (f *fakeStore) MarkTold(_ context.Context, token lease.Token, told []notify.Event) error {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("told"), f.Fence(token)); err != nil {
		return err
	}
	for _, e := range told {
		if e.Closing {
			delete(f.messages, e.Key())
		} else if m, exists := f.messages[e.Key()]; exists {
			m.openingTold = true
			f.messages[e.Key()] = m
		}
	}
	return nil
}

func (f *fakeStore) NoteWatch(_ context.Context, token lease.Token, _ []string, since, at time.Time, _ time.Duration) error {
	f.Lock()
	defer f.Unlock()
	if err := errors.Join(f.Begin("watch"), f.Fence(token)); err != nil {
		return err
	}
	f.watched = append(f.watched, [2]time.Time{since, at})
	return nil
}

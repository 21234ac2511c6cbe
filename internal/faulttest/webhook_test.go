package faulttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"ops_worker/internal/notify"
)

// hung is an answer that never comes.
const hung = 0

// webhook receives what the workers tell of alerts.
type webhook struct {
	url string

	mu     sync.Mutex
	answer int                        // an HTTP status, or hung
	heard  map[heardEvent]int         // how often
	first  map[heardEvent]heardObject // of each
	silly  error                      // of messages that nobody can read
}

// heardEvent is by what a receiver knows a message that comes again.
type heardEvent struct{ Event, Key string }

// heardObject is a message, or one of a group.
type heardObject struct {
	heardEvent
	Service      string    `json:"service"`
	Reason       string    `json:"reason"`
	Since        time.Time `json:"since"`
	Duration     float64   `json:"duration_seconds"`
	DatabaseAway bool      `json:"database_away"`
}

func newWebhook(t *testing.T) *webhook {
	t.Helper()
	h := &webhook{answer: http.StatusOK, heard: map[heardEvent]int{}, first: map[heardEvent]heardObject{}}
	server := httptest.NewServer(h)
	h.url = server.URL
	t.Cleanup(func() {
		server.Close()
		if h.silly != nil {
			t.Error(h.silly)
		}
	})
	return h
}

// setting is the worker's, which tells this receiver.
func (h *webhook) setting() string { return "ALERT_WEBHOOK_URL=" + h.url }

// set makes the receiver answer so from now on. What is refused or hangs is not heard.
func (h *webhook) set(answer int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *webhook) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	var message struct {
		heardObject
		Alerts []heardObject `json:"alerts"`
	}
	err := json.NewDecoder(request.Body).Decode(&message)
	h.mu.Lock()
	answer := h.answer
	switch {
	case answer != http.StatusOK:
	case err != nil:
		h.silly = errors.Join(h.silly, fmt.Errorf("a message to the webhook: %w", err))
	case len(message.Alerts) > 0:
		h.hear(message.Alerts...)
	default:
		h.hear(message.heardObject)
	}
	h.mu.Unlock()
	if answer == hung {
		<-request.Context().Done()
		return
	}
	w.WriteHeader(answer)
}

func (h *webhook) hear(objects ...heardObject) {
	for _, o := range objects {
		if h.heard[o.heardEvent]++; h.heard[o.heardEvent] == 1 {
			h.first[o.heardEvent] = o
		}
	}
}

// has reports whether an event was heard.
func (h *webhook) has(event, key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.heard[heardEvent{event, key}] > 0
}

// of are the messages of one event of a service, the oldest alert first.
func (h *webhook) of(event, service string) (objects []heardObject) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for e, o := range h.first {
		if e.Event == event && o.Service == service {
			objects = append(objects, o)
		}
	}
	slices.SortFunc(objects, func(a, b heardObject) int { return a.Since.Compare(b.Since) })
	return objects
}

// awaits waits for the only event of its kind of a service.
func (h *webhook) awaits(r *rig, event, service string) heardObject {
	r.t.Helper()
	r.within(righting, "the webhook hears that "+service+" has "+event, func() bool { return len(h.of(event, service)) > 0 })
	return h.of(event, service)[0]
}

// unclosed are the keys that were heard as opened and not as closed.
func (h *webhook) unclosed() (keys []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for e := range h.heard {
		if e.Event == "opened" && h.heard[heardEvent{"closed", e.Key}] == 0 {
			keys = append(keys, e.Key)
		}
	}
	return slices.Sorted(slices.Values(keys))
}

// counted are how many different events were heard, and how many came once more.
func (h *webhook) counted() (events, again int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := range maps.Values(h.heard) {
		again += n - 1
	}
	return len(h.heard), again
}

// standingAlert is a row of fleet_alert.
type standingAlert struct {
	notify.Alert
	IsClosed bool
	Details  struct {
		Reason     string    `json:"reason"`
		ResolvedAt time.Time `json:"resolved_at"`
		Duration   float64   `json:"duration_seconds"`
	}
}

// alerts are the system alerts of the services, the oldest first. While the database
// does not answer there are none.
func (r *rig) alerts() (alerts []standingAlert, err error) {
	rows, err := r.direct.Query(r.t.Context(), `SELECT substr(fingerprint, 15), status = 'CLOSED', created_at, coalesce(closed_at, 'epoch'), details
		FROM fleet_alert WHERE tenant_id = '__system__' AND fingerprint LIKE 'system-health:%' ORDER BY created_at`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var a standingAlert
		if err := rows.Scan(&a.Service, &a.IsClosed, &a.Opened, &a.Closed, &a.Details); err != nil {
			return nil, err
		}
		alerts = append(alerts, a)
	}
	return alerts, rows.Err()
}

// untold is what somebody should have heard of the alerts that stand, and has not.
func (r *rig) untold(h *webhook) (untold []string) {
	alerts, err := r.alerts()
	if err != nil {
		return []string{err.Error()}
	}
	for _, a := range alerts {
		if !h.has("opened", a.Key()) {
			untold = append(untold, "opened "+a.Key())
		}
		if a.IsClosed && !h.has("closed", a.Key()) {
			untold = append(untold, "closed "+a.Key())
		}
	}
	return untold
}

// tellsOfEveryAlert waits until the webhook has heard of every alert that stands, and
// the worker's list of messages has no others than those of the open ones.
func (r *rig) tellsOfEveryAlert(h *webhook) {
	r.t.Helper()
	// After a failure the next attempt comes within a minute.
	const limit = 90 * time.Second
	what := func() string { return fmt.Sprintf("the webhook hears of every alert: %q", r.untold(h)) }
	r.withinSaying(limit, what, func() bool { return len(r.untold(h)) == 0 })
	r.within(limit, "no message is left over", func() bool {
		return r.counts(0, `SELECT count(*) FROM ops_worker_message m WHERE NOT EXISTS (SELECT FROM fleet_alert a
			WHERE a.tenant_id = '__system__' AND a.fingerprint = m.fingerprint AND a.created_at = m.opened_at AND a.status <> 'CLOSED')`)
	})
}

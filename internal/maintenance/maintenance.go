// Package maintenance knows the maintenance windows of system alerts: while a window is
// on, the health monitor opens no alert for the services that it covers. Windows are rows
// of a table of the platform that older releases do not have.
package maintenance

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ops_worker/db"
)

// ErrNoTable means that this release of the platform knows no windows.
var ErrNoTable = errors.New("this release of the platform has no alert_maintenance_windows: only SYSTEM_ALERT_ENABLED=false stops its system alerts")

// Window is a time in which no system alert opens.
type Window struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"` // why, for people
	Starts   time.Time `json:"starts_at"`
	Ends     time.Time `json:"ends_at,omitzero"`    // excluded; zero: open end
	Weekly   *Weekly   `json:"recurring,omitempty"` // nil: on from Starts to Ends
	Services []string  `json:"services"`            // empty: all
	Fault    string    `json:"fault,omitempty"`     // why the row cannot be read; it is never on then
}

// On reports whether the window is on at an instant.
func (w Window) On(at time.Time) bool {
	return w.Fault == "" && !at.Before(w.Starts) && (w.Ends.IsZero() || at.Before(w.Ends)) && (w.Weekly == nil || w.Weekly.on(at.UTC()))
}

// Covers reports whether the window is about a service.
func (w Window) Covers(service string) bool {
	return len(w.Services) == 0 || slices.Contains(w.Services, service)
}

// Whose are the window's services in words.
func (w Window) Whose() string {
	if len(w.Services) == 0 {
		return "all services"
	}
	return strings.Join(w.Services, ", ")
}

// When is the window's time in words.
func (w Window) When() string {
	text := "from " + Instant(w.Starts)
	if !w.Ends.IsZero() {
		text += " until " + Instant(w.Ends)
	}
	if w.Weekly != nil {
		days := cmp.Or(strings.Trim(fmt.Sprint(w.Weekly.Days), "[]"), "every day")
		text = fmt.Sprintf("%s %02d:00 to %02d:00 UTC, %s", days, w.Weekly.StartHour, w.Weekly.EndHour, text)
	}
	return text
}

// Instant is a time in words.
func Instant(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

// Weekly is when a window comes back, in UTC.
type Weekly struct {
	Days      []time.Weekday `json:"dow"`        // on which it begins; empty: every day
	StartHour int            `json:"start_hour"` // 0 to 23
	EndHour   int            `json:"end_hour"`   // 0 to 24, excluded; up to StartHour it is on the next day
}

// on looks at what begins today and what began yesterday: none takes longer than a day.
func (w Weekly) on(at time.Time) bool {
	hours := w.EndHour - w.StartHour
	if hours <= 0 {
		hours += 24
	}
	for _, day := range []int{at.Day(), at.Day() - 1} {
		begins := time.Date(at.Year(), at.Month(), day, w.StartHour, 0, 0, 0, time.UTC)
		ends := begins.Add(time.Duration(hours) * time.Hour)
		if (len(w.Days) == 0 || slices.Contains(w.Days, begins.Weekday())) && !at.Before(begins) && at.Before(ends) {
			return true
		}
	}
	return false
}

// readWeekly reads the column recurring. A window that does not come back is nil.
func readWeekly(recurring json.RawMessage) (weekly *Weekly, fault string) {
	if len(recurring) == 0 || string(recurring) == "null" {
		return nil, ""
	}
	w := Weekly{StartHour: -1, EndHour: -1} // both are needed
	err := json.Unmarshal(recurring, &w)
	wrong := slices.ContainsFunc(w.Days, func(d time.Weekday) bool { return d < time.Sunday || d > time.Saturday })
	if err != nil || wrong || min(w.StartHour, w.EndHour) < 0 || w.StartHour > 23 || w.EndHour > 24 {
		return nil, `recurring is not like {"dow": [0 to 6], "start_hour": 0 to 23, "end_hour": 0 to 24}`
	}
	return &w, ""
}

// Windows are those that are on, to come, or over since a day at most.
type Windows []Window

// At is the window that is on for a service, if there is one.
func (ws Windows) At(service string, at time.Time) (Window, bool) {
	for _, w := range ws {
		if w.Covers(service) && w.On(at) {
			return w, true
		}
	}
	return Window{}, false
}

// Read reads the windows, in a transaction that is in the platform's scope. After
// ErrNoTable that transaction goes on; any other error ends it.
func Read(ctx context.Context, q *db.Queries) (Windows, error) {
	if stands, err := q.MaintenanceTableStands(ctx); err != nil {
		return nil, fmt.Errorf("look for maintenance windows: %w", err)
	} else if !stands {
		return nil, ErrNoTable
	}
	rows, err := q.MaintenanceWindows(ctx)
	if err != nil {
		return nil, fmt.Errorf("read maintenance windows: %w", err)
	}
	windows := make(Windows, len(rows))
	for i, r := range rows {
		weekly, fault := readWeekly(r.Recurring)
		windows[i] = Window{r.WindowID, r.Name, r.StartsAt, r.EndsAt, weekly, r.Services, fault}
	}
	return windows, nil
}

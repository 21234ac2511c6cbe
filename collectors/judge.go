package collectors

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/notify"
	"ops_worker/internal/pace"
	"ops_worker/internal/probe"
)

// incident is a system alert as this process knows it.
type incident struct {
	notify.Alert
	Details json.RawMessage `json:",omitempty"` // fleet_alert.details; without value if the database has it
	// Unsaved says that the database does not have the alert, as far as is known.
	Unsaved bool
}

// streak is what the checks of a service have found, and the alert that follows from it.
type streak struct {
	Healthy   bool
	Since     time.Time // the first check in a row that found it so
	Checks    int       // in a row
	CheckedAt time.Time
	Held      bool      // a maintenance window keeps an alert from opening
	Open      *incident // nil while there is none
}

// maxWaiting bounds what waits for the database.
const maxWaiting = 1000

// judge counts checks, and decides which alerts open and close. It goes on while the
// database is away, and keeps what that has missed.
type judge struct {
	afterFailures, afterSuccesses int // in a row, to open and to close an alert
	interval                      time.Duration

	mu sync.Mutex // of what follows: the lease reports from a goroutine of its own
	record
	windows maintenance.Windows  // as they were read last
	noticed *incident            // an outage of the database that this process saw as a standby
	standby bool                 // another replica leads
	stands  map[string]*incident // the open alerts of the database, by service
}

// record is what outlives the process, where there is a SPOOL_DIR.
type record struct {
	Streaks map[string]*streak
	Ended   []incident     // alerts whose end the database does not have, oldest first
	Untold  []notify.Event // which the database did not have when they were new
	// WatchedSince is the first check of an unbroken row that the database does not know
	// of; zero if it knows of all. CheckedAt is the newest check.
	WatchedSince, CheckedAt time.Time
}

func newJudge(cfg config.Config, left record) *judge {
	if left.Streaks == nil {
		left.Streaks = map[string]*streak{}
	}
	maps.DeleteFunc(left.Streaks, func(_ string, s *streak) bool { return s == nil })
	return &judge{afterFailures: cfg.AlertAfterFailures, afterSuccesses: cfg.AlertAfterSuccesses, interval: cfg.HealthInterval, record: left}
}

// resume takes over the streaks that are stored, but for those that nobody has added to
// since this process did; and an outage of the database that it noticed before its term.
func (j *judge) resume(stored map[string]streak) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for service, s := range stored {
		own := j.Streaks[service]
		if own != nil && !s.CheckedAt.After(own.CheckedAt) {
			continue
		}
		if own != nil {
			j.abandon(own)
		}
		j.Streaks[service] = &s
	}
	if j.noticed != nil {
		j.ended(*j.noticed)
		j.noticed = nil
	}
}

// count adds a check, and returns the streaks.
func (j *judge) count(at time.Time, checked []probe.Observation) map[string]streak {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.standby = false
	if j.WatchedSince.IsZero() || at.Sub(j.CheckedAt) > j.tolerance() {
		j.WatchedSince = at
	}
	j.CheckedAt = at
	streaks := make(map[string]streak, len(checked))
	for _, o := range checked {
		s := j.Streaks[o.Service]
		if s == nil {
			s = &streak{}
			j.Streaks[o.Service] = s
		}
		if s.Checks == 0 || s.Healthy != o.Up() {
			s.Healthy, s.Since, s.Checks = o.Up(), at, 0
		}
		s.Checks, s.CheckedAt = s.Checks+1, at
		streaks[o.Service] = *s
	}
	return streaks
}

// tolerance is how long the checks may be silent before a service counts as not watched.
func (j *judge) tolerance() time.Duration { return pace.Overdue(j.interval) }

// decide opens and closes alerts after a check has been counted, and returns the events.
func (j *judge) decide(at time.Time, checked []probe.Observation) (events []notify.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	away := slices.ContainsFunc(checked, func(o probe.Observation) bool { return o.Service == config.DatabaseService && !o.Up() })
	for _, o := range checked {
		s := j.Streaks[o.Service]
		if o.Up() {
			s.Held = false
			if s.Checks < j.afterSuccesses {
				continue
			}
			if s.Open != nil {
				events = append(events, j.close(s, s.Since, away))
			}
			if i := j.stands[o.Former]; i != nil { // of the monitor before this worker
				over := *i
				over.Closed = at
				j.ended(over)
			}
			continue
		}
		if s.Open != nil || s.Checks < j.afterFailures {
			continue
		}
		_, planned := j.windows.At(o.Service, s.Since) // by a window that may be over by now
		held := s.Held || planned
		if _, s.Held = j.windows.At(o.Service, at); s.Held {
			continue
		}
		s.Open = newIncident(o, s.Since, away)
		if held { // what was planned is no incident
			s.Open.Opened = at
		}
		events = append(events, notify.Event{Alert: s.Open.Alert})
	}
	return events
}

// newIncident is the alert of an unhealthy service.
func newIncident(o probe.Observation, since time.Time, away bool) *incident {
	found := detailsOf(o)
	found.Service, found.Kind, found.Reason, found.Since = o.Service, "system_health", o.Reason(), since.UTC().Format(time.RFC3339Nano)
	found.Counters, found.Error = nil, "" // the reason has it
	text, _ := json.Marshal(found)        // cannot fail without the counters, which may be no number
	return &incident{Details: text, Unsaved: true,
		Alert: notify.Alert{Service: o.Service, Status: string(o.Status), Reason: o.Reason(), Opened: since, DatabaseAway: away}}
}

// close ends the open alert of a service.
func (j *judge) close(s *streak, at time.Time, away bool) notify.Event {
	i := *s.Open
	s.Open = nil
	i.Closed, i.DatabaseAway = at, away
	if at.Before(i.Opened) {
		i.Closed = i.Opened
	}
	j.ended(i)
	closing := notify.Event{Alert: i.Alert, Closing: true}
	if hasEvent(j.Untold, notify.Event{Alert: i.Alert}) {
		j.untold(closing) // whatever the database then has in its place
	}
	return closing
}

func (j *judge) ended(i incident) {
	if slices.ContainsFunc(j.Ended, func(e incident) bool { return e.Same(i.Alert) }) {
		return // of a former name, which the database still shows as open
	}
	j.Ended = append(j.Ended, i)
	j.Ended = j.Ended[max(len(j.Ended)-maxWaiting, 0):]
}

// keep keeps events that the database does not have.
func (j *judge) keep(events []notify.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.untold(events...)
}

func (j *judge) untold(events ...notify.Event) {
	for _, e := range events {
		if !hasEvent(j.Untold, e) {
			j.Untold = append(j.Untold, e)
		}
	}
	j.Untold = j.Untold[max(len(j.Untold)-maxWaiting, 0):]
}

// abandon ends an alert that the database does not have at its last check, since another
// replica decides now.
func (j *judge) abandon(s *streak) {
	if s.Open != nil && s.Open.Unsaved {
		j.close(s, s.CheckedAt, false)
	}
}

// standBy is called while another replica leads, and returns what is left to tell. begins
// is true at its first call of such a time.
func (j *judge) standBy() (untold []notify.Event, begins bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.noticed = nil // the leader has seen it, or it was this process that was cut off
	if begins = !j.standby; begins {
		j.standby = true
		for _, service := range slices.Sorted(maps.Keys(j.Streaks)) {
			j.abandon(j.Streaks[service])
		}
	}
	return slices.Clone(j.Untold), begins
}

// noticeOutage takes an outage of the database that this process saw as a standby.
func (j *judge) noticeOutage(from, to time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if to.Sub(from) < time.Duration(j.afterFailures)*j.interval {
		return // that many checks might not have seen it
	}
	j.noticed = newIncident(probe.Observation{Service: config.DatabaseService, Reading: probe.Reading{Status: probe.Unknown, Err: "it did not answer"}}, from.Truncate(time.Microsecond), true)
	j.noticed.Closed = to
}

// plan takes the maintenance windows. What was found before they were known, and began in
// one, is no incident.
func (j *judge) plan(windows maintenance.Windows) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.windows = windows
	j.Ended = slices.DeleteFunc(j.Ended, func(i incident) bool {
		_, planned := windows.At(i.Service, i.Opened)
		return planned && i.Unsaved
	})
}

// over are the alerts whose end the database does not have.
func (j *judge) over() []incident {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.Ended)
}

// closed drops an alert whose end the database has.
func (j *judge) closed(over incident) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.Ended = slices.DeleteFunc(j.Ended, func(i incident) bool { return i.Same(over.Alert) })
}

// standing are the alerts that should be open.
func (j *judge) standing(at time.Time, checked []probe.Observation) (ill []incident) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, o := range checked {
		s := j.Streaks[o.Service]
		if _, planned := j.windows.At(o.Service, at); o.Up() || s.Open == nil || planned {
			continue
		}
		i := *s.Open
		if !i.Unsaved { // by which it opens again, if somebody has closed it
			i = *newIncident(o, s.Since, false)
			i.Opened = s.Open.Opened
		}
		ill = append(ill, i)
	}
	return ill
}

// refresh takes over which alerts are open in the database, but for the services whose
// ends it does not have yet. The alert of another replica stands in place of an own one.
func (j *judge) refresh(open []incident) {
	j.mu.Lock()
	defer j.mu.Unlock()
	stands := map[string]*incident{}
	for _, i := range open {
		stands[i.Service] = &i
	}
	j.stands = stands
	for service, s := range j.Streaks {
		switch i := stands[service]; {
		case slices.ContainsFunc(j.Ended, func(over incident) bool { return over.Service == service }):
		case i != nil:
			if s.Open != nil && !s.Open.Same(i.Alert) {
				j.abandon(s)
			}
			s.Open = i
		case s.Open != nil && !s.Open.Unsaved:
			s.Open = nil // somebody has closed it
		}
	}
}

// due adds to what is due by the database what it does not have, and leaves out what a
// maintenance window covers; firing are the alerts that are open.
func (j *judge) due(at time.Time, stored []notify.Event) (due []notify.Event, firing []notify.Alert) {
	j.mu.Lock()
	defer j.mu.Unlock()
	due = slices.Clone(stored)
	for _, e := range j.Untold {
		if !hasEvent(stored, e) {
			due = append(due, e)
		}
	}
	for _, service := range slices.Sorted(maps.Keys(j.Streaks)) {
		if i := j.Streaks[service].Open; i != nil {
			firing = append(firing, i.Alert)
		}
	}
	planned := func(service string) bool {
		_, on := j.windows.At(service, at)
		return on
	}
	return slices.DeleteFunc(due, func(e notify.Event) bool { return planned(e.Service) }),
		slices.DeleteFunc(firing, func(a notify.Alert) bool { return planned(a.Service) })
}

// forget drops events of which somebody has been told; but those of an alert that the
// database lacks only if it is over.
func (j *judge) forget(told []notify.Event, over bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	lacks := func(a notify.Alert) bool {
		s := j.Streaks[a.Service]
		return slices.ContainsFunc(j.Ended, func(i incident) bool { return i.Same(a) }) ||
			s != nil && s.Open != nil && s.Open.Unsaved && s.Open.Same(a)
	}
	j.Untold = slices.DeleteFunc(j.Untold, func(e notify.Event) bool { return hasEvent(told, e) && (over || !lacks(e.Alert)) })
}

// unsaved is what the database lacks, as JSON; nil if it has everything.
func (j *judge) unsaved(away bool) *record {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !away && len(j.Ended) == 0 && len(j.Untold) == 0 {
		return nil
	}
	r := j.record
	r.Streaks = make(map[string]*streak, len(j.Streaks))
	for service, s := range j.Streaks {
		r.Streaks[service] = new(*s)
	}
	r.Ended, r.Untold = slices.Clone(j.Ended), slices.Clone(j.Untold)
	return &r
}

// watchedSince is the first check of an unbroken row that the database does not know of.
func (j *judge) watchedSince() time.Time {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.WatchedSince
}

// noted says that the database knows of every check.
func (j *judge) noted() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.WatchedSince = time.Time{}
}

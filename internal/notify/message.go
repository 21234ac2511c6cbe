package notify

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"ops_worker/internal/humanize"
)

const (
	// databaseService is the service whose alert may mean that the worker alone is cut off.
	databaseService = "postgres"
	cutOff          = "ops_worker cannot reach the database"
)

// message is what a receiver of JSON reads of an event.
type message struct {
	Event        string    `json:"event"`
	Service      string    `json:"service"`
	Status       string    `json:"status"`
	Reason       string    `json:"reason"`
	Since        time.Time `json:"since"`
	Duration     *float64  `json:"duration_seconds,omitempty"`
	Key          string    `json:"key"`
	DatabaseAway bool      `json:"database_away,omitempty"`
	Source       string    `json:"source"`
	Text         string    `json:"text"`
}

func (w *Webhook) message(e Event) message {
	m := message{e.name(), e.Service, e.Status, e.Reason, e.since(), nil, e.Key(), e.DatabaseAway, w.options.Source, humanize.OneLine(e.text())}
	if e.Closing {
		seconds := e.lasted().Seconds()
		m.Status, m.Duration = "healthy", &seconds
	}
	return m
}

// since is the opening as a table keeps it, so that a message is the same whether the
// alert was read from there or not.
func (a Alert) since() time.Time { return a.Opened.UTC().Truncate(time.Microsecond) }

func (e Event) lasted() time.Duration { return max(0, e.Closed.Sub(e.Opened)) }

// text is the event in a line for people.
func (e Event) text() string {
	since := "since " + e.Opened.UTC().Format("2006-01-02 15:04:05 UTC")
	found := withReason(e.Status, e.Reason)
	ofDatabase := e.Service == databaseService
	text := fmt.Sprintf("%s is %s (%s)", e.Service, found, since)
	switch {
	case e.Closing:
		text = fmt.Sprintf("%s is healthy again after %s (was %s, %s)", e.Service, humanize.Age(e.lasted().Round(time.Second)), found, since)
	case e.DatabaseAway && ofDatabase:
		text = fmt.Sprintf("%s (%s)", withReason(cutOff, e.Reason), since)
	}
	if e.DatabaseAway && !ofDatabase && !e.Closing {
		text += "; " + cutOff
	}
	return text
}

func withReason(text, reason string) string { return strings.TrimSuffix(text+": "+reason, ": ") }

// body is the message of an event, or of a group.
func (w *Webhook) body(events []Event) []byte {
	if len(events) == 1 {
		m := w.message(events[0])
		return w.encode(m.Text, m)
	}
	object := struct {
		Event  string    `json:"event"`
		Source string    `json:"source"`
		Text   string    `json:"text"`
		Alerts []message `json:"alerts"`
	}{Event: events[0].name(), Source: w.options.Source}
	title, suffix := fmt.Sprintf("%d services turned ill:", len(events)), ""
	lines := title // Slack has no other place for the keys
	var names []string
	for _, e := range events {
		m := w.message(e)
		object.Alerts = append(object.Alerts, m)
		lines += fmt.Sprintf("\n%s [%s]", m.Text, m.Key)
		names = append(names, fmt.Sprintf("%s (%s)", m.Service, cmp.Or(m.Reason, m.Status)))
		if m.DatabaseAway {
			suffix = "; " + cutOff
		}
	}
	object.Text = humanize.OneLine(title + " " + strings.Join(names, ", ") + suffix)
	return w.encode(lines, object)
}

// encode is the text for Slack, where a reason must not make links or mentions, and else
// the object.
func (w *Webhook) encode(text string, object any) []byte {
	if w.options.Format != Slack {
		return encode(object)
	}
	text = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(text)
	return encode(struct {
		Text string `json:"text"`
	}{text})
}

// alertmanagerAlert is an alert as Alertmanager's API v2 takes it.
type alertmanagerAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

func (w *Webhook) alertmanagerBody(firing []Alert, ends time.Time) []byte {
	var alerts []alertmanagerAlert
	for _, a := range firing {
		alerts = append(alerts, alertmanagerAlert{
			Labels:      map[string]string{"alertname": "SystemHealth", "service": a.Service, "severity": "critical", "source": w.options.Source},
			Annotations: map[string]string{"summary": a.Summary(), "reason": a.Reason, "key": a.Key()},
			StartsAt:    a.since(),
			EndsAt:      ends.UTC(),
		})
	}
	return encode(alerts)
}

// alertsURL is where an Alertmanager takes alerts.
func alertsURL(base url.URL) *url.URL {
	const path = "/api/v2/alerts"
	if strings.HasSuffix(strings.TrimSuffix(base.Path, "/"), path) {
		return &base
	}
	if base.Path == "" {
		base.Path = "/" // or JoinPath makes a relative path, which no server takes
	}
	return base.JoinPath(path)
}

func encode(v any) []byte {
	body, _ := json.Marshal(v) // these types can always be encoded
	return body
}

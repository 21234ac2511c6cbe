package notify

import (
	"testing"
	"time"
)

func TestMessages(t *testing.T) {
	t.Parallel()
	away := func(service string) Event {
		a := down(service)
		a.DatabaseAway = true
		return Event{Alert: a}
	}
	odd := Event{Alert: Alert{Service: "api", Status: "degraded", Reason: "<!channel> & \n more", Opened: opened.In(time.FixedZone("", 3600))}}
	for name, test := range map[string]struct {
		group       []Event
		json, slack string
	}{
		"opened": {
			openings("ingest"),
			`{"event":"opened","service":"ingest","status":"down","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:ingest@2026-11-26T03:04:05.123456Z","source":"east","text":"ingest is down: connection refused (since 2026-11-26 03:04:05 UTC)"}`,
			`{"text":"ingest is down: connection refused (since 2026-11-26 03:04:05 UTC)"}`,
		},
		"closed": {
			[]Event{closing("ingest", 4*time.Minute)},
			`{"event":"closed","service":"ingest","status":"healthy","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"duration_seconds":240,"key":"system-health:ingest@2026-11-26T03:04:05.123456Z",` +
				`"source":"east","text":"ingest is healthy again after 4m (was down: connection refused, since 2026-11-26 03:04:05 UTC)"}`,
			`{"text":"ingest is healthy again after 4m (was down: connection refused, since 2026-11-26 03:04:05 UTC)"}`,
		},
		"closed before it opened, by a clock that jumped": {
			[]Event{{Alert{Service: "api", Status: "unknown", Opened: opened, Closed: opened.Add(-time.Hour)}, true}},
			`{"event":"closed","service":"api","status":"healthy","reason":"","since":"2026-11-26T03:04:05.123456Z",` +
				`"duration_seconds":0,"key":"system-health:api@2026-11-26T03:04:05.123456Z",` +
				`"source":"east","text":"api is healthy again after 0s (was unknown, since 2026-11-26 03:04:05 UTC)"}`,
			`{"text":"api is healthy again after 0s (was unknown, since 2026-11-26 03:04:05 UTC)"}`,
		},
		"the database is away": {
			[]Event{away("postgres")},
			`{"event":"opened","service":"postgres","status":"down","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:postgres@2026-11-26T03:04:05.123456Z","database_away":true,` +
				`"source":"east","text":"ops_worker cannot reach the database: connection refused (since 2026-11-26 03:04:05 UTC)"}`,
			`{"text":"ops_worker cannot reach the database: connection refused (since 2026-11-26 03:04:05 UTC)"}`,
		},
		"another service while the database is away": {
			[]Event{away("ingest")},
			`{"event":"opened","service":"ingest","status":"down","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:ingest@2026-11-26T03:04:05.123456Z","database_away":true,` +
				`"source":"east","text":"ingest is down: connection refused (since 2026-11-26 03:04:05 UTC); ops_worker cannot reach the database"}`,
			`{"text":"ingest is down: connection refused (since 2026-11-26 03:04:05 UTC); ops_worker cannot reach the database"}`,
		},
		"a reason that means something to Slack": {
			[]Event{odd},
			`{"event":"opened","service":"api","status":"degraded","reason":"\u003c!channel\u003e \u0026 \n more","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:api@2026-11-26T03:04:05.123456Z",` +
				`"source":"east","text":"api is degraded: \u003c!channel\u003e \u0026 more (since 2026-11-26 03:04:05 UTC)"}`,
			`{"text":"api is degraded: \u0026lt;!channel\u0026gt; \u0026amp; more (since 2026-11-26 03:04:05 UTC)"}`,
		},
		"a group": {
			append(openings("ingest", "mqtt"), away("postgres")),
			`{"event":"opened","source":"east","text":"3 services turned ill: ingest (connection refused), mqtt (connection refused), ` +
				`postgres (connection refused); ops_worker cannot reach the database","alerts":[` +
				`{"event":"opened","service":"ingest","status":"down","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:ingest@2026-11-26T03:04:05.123456Z","source":"east","text":"ingest is down: connection refused (since 2026-11-26 03:04:05 UTC)"},` +
				`{"event":"opened","service":"mqtt","status":"down","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:mqtt@2026-11-26T03:04:05.123456Z","source":"east","text":"mqtt is down: connection refused (since 2026-11-26 03:04:05 UTC)"},` +
				`{"event":"opened","service":"postgres","status":"down","reason":"connection refused","since":"2026-11-26T03:04:05.123456Z",` +
				`"key":"system-health:postgres@2026-11-26T03:04:05.123456Z","database_away":true,` +
				`"source":"east","text":"ops_worker cannot reach the database: connection refused (since 2026-11-26 03:04:05 UTC)"}]}`,
			`{"text":"3 services turned ill:\n` +
				`ingest is down: connection refused (since 2026-11-26 03:04:05 UTC) [system-health:ingest@2026-11-26T03:04:05.123456Z]\n` +
				`mqtt is down: connection refused (since 2026-11-26 03:04:05 UTC) [system-health:mqtt@2026-11-26T03:04:05.123456Z]\n` +
				`ops_worker cannot reach the database: connection refused (since 2026-11-26 03:04:05 UTC) [system-health:postgres@2026-11-26T03:04:05.123456Z]"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for format, want := range map[Format]string{JSON: test.json, Slack: test.slack} {
				w := New(Options{URL: "https://example.org", Format: format, Source: "east"})
				equal(t, string(format), string(w.body(test.group)), want)
			}
		})
	}
}

func TestWhereAlertmanagerTakesAlerts(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://am:9093":                       "http:// am:9093 /api/v2/alerts",
		"http://am:9093/":                      "http:// am:9093 /api/v2/alerts",
		"https://u:p@am/prefix?x=y":            "https://u:p am /prefix/api/v2/alerts?x=y",
		"http://am:9093/prefix/api/v2/alerts":  "http:// am:9093 /prefix/api/v2/alerts",
		"http://am:9093/prefix/api/v2/alerts/": "http:// am:9093 /prefix/api/v2/alerts/",
	} {
		w := New(Options{URL: in, Format: Alertmanager})
		to := w.receiver.url
		equal(t, in, to.Scheme+"://"+to.User.String()+" "+to.Host+" "+to.RequestURI(), want)
	}
}

// In a long outage some thousand events are compared with each other at each check.
func TestEventsAreComparedWithoutMakingTheirKeys(t *testing.T) {
	a, b := Event{Alert: Alert{Service: "api", Opened: time.Unix(1, 1999)}}, Event{Alert: Alert{Service: "api", Opened: time.Unix(1, 1000).UTC()}}
	if allocations := testing.AllocsPerRun(10, func() {
		if !a.Same(b) || a.Same(Event{Alert: b.Alert, Closing: true}) || a.Same(Event{Alert: Alert{Service: "api", Opened: time.Unix(1, 2000)}}) {
			t.Error("wrong")
		}
	}); allocations > 0 {
		t.Errorf("%g allocations", allocations)
	}
}

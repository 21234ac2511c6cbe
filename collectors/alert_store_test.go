package collectors

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/notify"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// day is a time that lies far back, whose minutes the tests below count.
var day = time.Date(2026, 1, 2, 3, 0, 0, 123456000, time.UTC)

func minutes(n int) time.Time { return day.Add(time.Duration(n) * time.Minute) }

// over is an alert of a service that is over.
func over(service string, from, to int) incident {
	i := newIncident(observation(service, probe.Reading{Status: probe.Down, Err: "connection refused"}), minutes(from), true)
	i.Closed = minutes(to)
	return *i
}

const alertMinutes = `SELECT substr(fingerprint, 15), status, extract(epoch FROM created_at - '2026-01-02 03:00:00.123456Z')::int / 60, extract(epoch FROM closed_at - '2026-01-02 03:00:00.123456Z')::int / 60
	FROM fleet_alert ORDER BY created_at, fingerprint`

func TestAnAlertThatIsOverIsRecordedOnce(t *testing.T) {
	t.Parallel()
	for name, index := range map[string]string{"older index": "status = 'OPEN'", "newer index": "status IN ('OPEN', 'ACKNOWLEDGED')"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database, pool, store := onDatabase(t)
			database.Exec(t, "DROP INDEX idx_fleet_alert_open_uq; CREATE UNIQUE INDEX idx_fleet_alert_open_uq ON fleet_alert (tenant_id, fingerprint) WHERE "+index+
				"; ALTER TABLE fleet_alert ADD FOREIGN KEY (tenant_id) REFERENCES tenants")
			token := acquire(t, store, "a")
			record := func(i incident, want bool) {
				t.Helper()
				if written, err := store.CloseAlert(t.Context(), token, i, true); err != nil || written != want {
					t.Errorf("%s: %t, %v", i.Key(), written, err)
				}
			}
			record(over("postgres", 1, 4), true)
			record(over("postgres", 1, 4), false) // whose outcome was not known
			record(over("postgres", 2, 5), false) // which another replica saw
			record(over("postgres", 0, 2), false)
			record(over("postgres", 4, 6), true) // the next one
			record(over("api", 1, 1), true)
			record(over("api", 1, 1), false)
			pgtest.WantRows(t, pool, alertMinutes, "api CLOSED 1 1", "postgres CLOSED 1 4", "postgres CLOSED 4 6")
			pgtest.WantRows(t, pool, "SELECT summary, severity, details - 'since' - 'resolved_at', details ? 'since', (details ->> 'resolved_at')::timestamptz = closed_at FROM fleet_alert WHERE fingerprint = 'system-health:postgres' ORDER BY id LIMIT 1",
				`Service unhealthy: postgres (connection refused) 5 map[duration_seconds:180 kind:system_health reason:connection refused service:postgres status:down] true true`)

			// An alert that stood before the outage is closed at the time at which that was seen.
			for service, status := range map[string]string{"ingest": "OPEN", "evaluator": "ACKNOWLEDGED"} {
				database.Exec(t, fmt.Sprintf(`INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at)
					SELECT tenant_id, site_id, device_id, alert_type, 'system-health:%s', '%s', 's', '%s' FROM fleet_alert LIMIT 1`, service, status, minutes(7).Format(time.RFC3339Nano)))
				i := over(service, 7, 9)
				i.Details = nil
				record(i, true)
			}
			database.Exec(t, "DELETE FROM fleet_alert WHERE fingerprint NOT IN ('system-health:ingest', 'system-health:evaluator')")
			pgtest.WantRows(t, pool, alertMinutes, "evaluator CLOSED 7 9", "ingest CLOSED 7 9")
			pgtest.WantRows(t, pool, "SELECT details - 'resolved_at' FROM fleet_alert", "map[duration_seconds:120]", "map[duration_seconds:120]")
			database.Exec(t, "UPDATE ops_worker_lease SET epoch = 99")
			if _, err := store.CloseAlert(t.Context(), token, over("x", 1, 2), true); err != lease.ErrLost {
				t.Errorf("without the lease: %v", err)
			}
		})
	}
}

// A leader that was cut off and comes back ends what it saw alone, and not the alert that
// another leader has opened meanwhile.
func TestAnAlertOfAnotherLeaderStaysOpen(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	if opened, err := store.OpenAlert(t.Context(), token, over("api", 2, 2)); err != nil || !opened {
		t.Fatalf("%t, %v", opened, err)
	}
	for _, seen := range []incident{over("api", 1, 3), over("api", 3, 5)} {
		if closed, err := store.CloseAlert(t.Context(), token, seen, true); err != nil || closed {
			t.Errorf("%s: %t, %v", seen.Key(), closed, err)
		}
	}
	pgtest.WantRows(t, pool, "SELECT status, closed_at IS NULL FROM fleet_alert", "OPEN true")
}

// Of each alert the opening and the closing are due until they are told, also where
// somebody else has closed or removed it.
func TestWhatIsDueFollowsFromTheAlerts(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	due := func(want ...string) (due []notify.Event) {
		t.Helper()
		_, due, err := store.OpenAlerts(t.Context(), token, true)
		var got []string
		for _, e := range due {
			got = append(got, fmt.Sprintf("%s %t %s %s", e.Service, e.Closing, e.Status, e.Reason))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("due %q, want %q; %v", got, want, err)
		}
		return due
	}
	tell := func(events ...notify.Event) {
		t.Helper()
		if err := store.MarkTold(t.Context(), token, events); err != nil {
			t.Error(err)
		}
	}
	if _, err := store.CloseAlert(t.Context(), token, over("silent", 1, 2), false); err != nil {
		t.Error(err)
	}
	due() // nobody was to be told of that one
	if _, err := store.CloseAlert(t.Context(), token, over("postgres", 1, 4), true); err != nil {
		t.Error(err)
	}
	down := observation("ingest", probe.Reading{Status: probe.Degraded, HTTPStatus: 503})
	if _, _, err := syncAlerts(t.Context(), store, token, []probe.Observation{down, observation("api", probe.Reading{Status: probe.Down})}); err != nil {
		t.Error(err)
	}
	events := due("postgres false down connection refused", "postgres true down connection refused", "api false down no connection", "ingest false degraded HTTP 503")
	if !events[0].Opened.Equal(minutes(1)) || !events[1].Closed.Equal(minutes(4)) {
		t.Errorf("%+v", events[:2])
	}
	tell(events[0], events[2])
	due("postgres true down connection refused", "ingest false degraded HTTP 503")
	tell(events[1], events[1])
	database.Exec(t, `UPDATE fleet_alert SET status = 'CLOSED', closed_at = created_at + interval '5 minutes' WHERE fingerprint = 'system-health:ingest';
		DELETE FROM fleet_alert WHERE fingerprint = 'system-health:api'`)
	events = due("api true  ", "ingest false degraded HTTP 503", "ingest true degraded HTTP 503")
	tell(events...)
	due()
	pgtest.WantRows(t, pool, "SELECT count(*) FROM ops_worker_message", "0")

	// A closed alert of a service that is still ill opens again, as another one.
	for range 2 {
		if opened, err := store.OpenAlert(t.Context(), token, over("web", 1, 2)); err != nil || !opened {
			t.Errorf("opened %t, %v", opened, err)
		}
		database.Exec(t, "UPDATE fleet_alert SET status = 'CLOSED', closed_at = now() WHERE fingerprint = 'system-health:web'")
	}
	pgtest.WantRows(t, pool, "SELECT count(DISTINCT created_at) FROM fleet_alert WHERE fingerprint = 'system-health:web'", "2")
}

// Where the table of messages is missing or forbidden, as after an upgrade that may not
// migrate, alerts open and close all the same, and somebody is told.
func TestAlertsGoOnWithoutTheTableOfMessages(t *testing.T) {
	t.Parallel()
	database, pool, store := onDatabase(t)
	acquired := lease.New(lease.NewPostgres(store.client, 0), "a", time.Minute, zerolog.Nop(), lease.Hooks{})
	if _, err := acquired.TryAcquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	database.Exec(t, "DROP TABLE ops_worker_message")
	if _, err := store.OpenAlert(t.Context(), acquired.Token(), over("ingest", 1, 1)); err != nil { // by the process before
		t.Fatal(err)
	}
	heard := &stage{}
	reading := probe.Reading{Status: probe.Down}
	monitor := monitorWith(watching(config.ProbeCounters, map[string]probe.Probe{
		"api":    func(context.Context) probe.Reading { return reading },
		"ingest": func(context.Context) probe.Reading { return probe.Reading{Status: probe.Healthy} },
	}), store, acquired, time.Minute, alertAtOnce, heard, spool.NewMemory(1))
	for _, reading.Status = range []probe.Status{probe.Down, probe.Healthy} {
		if err := monitor.cycle(t.Context()); err == nil {
			t.Error("no error")
		}
	}
	pgtest.WantRows(t, pool, "SELECT fingerprint, status FROM fleet_alert ORDER BY 1", "system-health:api CLOSED", "system-health:ingest CLOSED")
	if len(heard.heard) != 3 || len(monitor.alerts.judge.Untold) != 0 {
		t.Errorf("told %q, %v wait", heard.heard, monitor.alerts.judge.Untold)
	}
}

// Thousands of other system alerts do not hide those that the monitor opens and closes.
func TestTheMonitorsOwnAlertsComeFirst(t *testing.T) {
	t.Parallel()
	database, _, store := onDatabase(t)
	token := acquire(t, store, "a")
	if _, err := store.OpenAlert(t.Context(), token, over("api", 1, 1)); err != nil {
		t.Fatal(err)
	}
	database.Exec(t, `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, summary, created_at)
		SELECT tenant_id, site_id, device_id, alert_type, 'system-backup:' || n, 's', created_at - interval '1 day' FROM fleet_alert, generate_series(1, 1001) n`)
	if open, due, err := store.OpenAlerts(t.Context(), token, true); err != nil || len(open) != 1 || len(due) != 1 {
		t.Errorf("%v, %v, %v", open, due, err)
	}
}

func TestMessagesUnderForcedRowSecurity(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	forceRowSecurity(t, database)
	database.Exec(t, "GRANT SELECT, INSERT, UPDATE ON fleet_alert, tenants TO pulse_operator; GRANT USAGE ON SEQUENCE fleet_alert_id_seq TO pulse_operator")
	store, _ := loginRole(t, database, "IN ROLE pulse_operator")
	token := acquire(t, store, "a")
	if written, err := store.CloseAlert(t.Context(), token, over("postgres", 1, 4), true); err != nil || !written {
		t.Errorf("%t, %v", written, err)
	}
	if _, due, err := store.OpenAlerts(t.Context(), token, true); err != nil || len(due) != 2 {
		t.Errorf("%v, %v", due, err)
	}
}

func TestSpansOfTheWatch(t *testing.T) {
	t.Parallel()
	_, pool, store := onDatabase(t)
	token := acquire(t, store, "a")
	const spans = "SELECT service, extract(epoch FROM began_at - '2026-01-02 03:00:00.123456Z')::int / 60, extract(epoch FROM ended_at - '2026-01-02 03:00:00.123456Z')::int / 60 FROM ops_worker_watch ORDER BY 1, 2"
	note := func(since, at int, services ...string) {
		t.Helper()
		if err := store.client.Write(t.Context(), func(ctx context.Context, q *db.Queries) error {
			return q.NoteWatch(ctx, db.NoteWatchParams{Services: services, BeganAt: minutes(since), CheckedAt: minutes(at), ToleranceSeconds: 180})
		}); err != nil {
			t.Error(err)
		}
	}
	note(0, 0, "api", "ingest")
	note(1, 1, "api", "ingest")
	note(1, 1, "api", "ingest") // again
	note(4, 4, "ingest")
	note(8, 8, "api", "ingest") // four minutes after the one before
	note(9, 15, "api")          // after an outage of the database
	pgtest.WantRows(t, pool, spans, "api 0 1", "api 8 15", "ingest 0 4", "ingest 8 8")
	if err := store.NoteWatch(t.Context(), token, []string{"api"}, time.Now(), time.Now(), time.Minute); err != nil {
		t.Error(err)
	}
	pgtest.WantRows(t, pool, "SELECT count(*) FROM ops_worker_watch WHERE ended_at > now() - interval '40 days'", "1")
	pgtest.WantRows(t, pool, "SELECT count(*) FROM ops_worker_watch", "1") // the old ones are gone
}

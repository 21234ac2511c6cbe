package status

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

// span is from so long before now until so long before now.
type span struct{ from, to time.Duration }

const (
	hour    = time.Hour
	day     = 24 * hour
	ongoing = -1 // of an incident that is not over
	unheard = -2 // of an incident that was closed without a time
)

var availabilities = map[string]struct {
	watched, ill []span
	want         [3]float64 // over a day, 7 and 30 days; negative if it is not known
	last         time.Duration
}{
	"well":      {[]span{{40 * day, 0}}, nil, [3]float64{100, 100, 100}, -1},
	"edges":     {[]span{{40 * day, 0}}, []span{{31 * day, 29 * day}, {8 * day, 156 * hour}, {26 * hour, 21*hour + 36*time.Minute}}, [3]float64{90, 90.2381, 91.0556}, 4*hour + 24*time.Minute},
	"open":      {[]span{{40 * day, 0}}, []span{{12 * hour, ongoing}}, [3]float64{50, 92.8571, 98.3333}, 12 * hour},
	"gap":       {[]span{{40 * day, 20 * hour}, {18 * hour, 0}}, []span{{19*hour + 30*time.Minute, 19 * hour}, {18*hour + 30*time.Minute, 17*hour + 30*time.Minute}}, [3]float64{97.7273, 99.6988, 99.9304}, hour},
	"off":       {[]span{{40 * day, 5 * day}, {3 * day, 0}}, []span{{4 * day, 90 * hour}}, [3]float64{100, -1, 100}, 6 * hour},
	"new":       {[]span{{2 * day, 0}}, nil, [3]float64{100, -1, -1}, -1},
	"several":   {[]span{{40 * day, 10 * day}, {12 * day, 5 * day}, {12 * day, 11 * day}, {5*day - 10*time.Minute, 0}}, []span{{276 * hour, 240 * hour}, {270 * hour, 250 * hour}}, [3]float64{100, 100, 94.999}, 20 * hour},
	"stopped":   {[]span{{40 * day, 3 * hour}}, []span{{2 * hour, hour}}, [3]float64{-1, 100, 100}, hour},
	"unwatched": {nil, []span{{2 * hour, hour}}, [3]float64{-1, -1, -1}, hour},
	"unheard":   {[]span{{40 * day, 0}}, []span{{20 * day, unheard}}, [3]float64{100, 100, 100}, 0},
	"backwards": {[]span{{40 * day, 0}, {hour, 2 * hour}}, []span{{2 * hour, 3 * hour}}, [3]float64{100, 100, 100}, 0},
	"silent":    {nil, nil, [3]float64{-1, -1, -1}, -1},
}

func TestAvailability(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	fillAvailabilities(t, database)
	r := newReader(t, database.URL)
	found := r.report(t).Availability
	if len(found) != len(availabilities) {
		t.Errorf("%d services", len(found))
	}
	for _, a := range found {
		test := availabilities[a.Service]
		for i, share := range []*float64{a.Percent24h, a.Percent7d, a.Percent30d} {
			if known := share != nil; known != (test.want[i] >= 0) || known && (*share < test.want[i]-0.02 || *share > test.want[i]+0.02 || (*share == 100) != (test.want[i] == 100)) {
				t.Errorf("%s over span %d: %s, want %g", a.Service, i, percent(share), test.want[i])
			}
		}
		last := a.LastIncident
		switch {
		case last == nil || test.last < 0:
			if last != nil || test.last >= 0 {
				t.Errorf("%s: last incident %+v", a.Service, last)
			}
		case last.DurationSeconds < test.last.Seconds() || last.DurationSeconds > test.last.Seconds()+20 || last.Reason != "HTTP 503" || (last.EndedAt == nil) != (a.Service == "open"):
			t.Errorf("%s: last incident %+v, want one of %s", a.Service, last, test.last)
		}
	}
	// An alert that is acknowledged is not over; a removed service is not shown.
	database.Exec(t, "UPDATE fleet_alert SET status = 'ACKNOWLEDGED' WHERE fingerprint = 'system-health:open'; DELETE FROM service_health WHERE service <> 'open'")
	if a := r.report(t).Availability; len(a) != 1 || a[0].LastIncident.EndedAt != nil || percent(a[0].Percent24h)[:2] != "50" {
		t.Errorf("acknowledged: %+v", a)
	}
	// However short an incident is, there was one.
	database.Exec(t, "UPDATE fleet_alert SET status = 'CLOSED', closed_at = created_at + interval '1 microsecond' WHERE fingerprint = 'system-health:open'")
	if a := r.report(t).Availability; percent(a[0].Percent30d) != "99.999%" || *a[0].Percent30d >= 100 {
		t.Errorf("after a microsecond: %v", *a[0].Percent30d)
	}
}

// fillAvailabilities counts from the transaction's time, a little before the reading.
func fillAvailabilities(t *testing.T, database *pgtest.Database) {
	t.Helper()
	var b strings.Builder
	ago := func(d time.Duration) string { return fmt.Sprintf("now() - interval '%f seconds'", d.Seconds()) }
	for _, service := range slices.Sorted(maps.Keys(availabilities)) {
		fmt.Fprintf(&b, "INSERT INTO service_health (service, status, checked_at) VALUES ('%s', 'healthy', now());\n", service)
		for _, w := range availabilities[service].watched {
			fmt.Fprintf(&b, "INSERT INTO ops_worker_watch (service, began_at, ended_at) VALUES ('%s', %s, %s) ON CONFLICT (service, began_at) DO UPDATE SET ended_at = greatest(ops_worker_watch.ended_at, EXCLUDED.ended_at);\n", service, ago(w.from), ago(w.to))
		}
		for _, i := range availabilities[service].ill {
			status, closed := "CLOSED", "NULL"
			switch {
			case i.to == ongoing:
				status = "OPEN"
			case i.to >= 0:
				closed = ago(i.to)
			}
			fmt.Fprintf(&b, "INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at, closed_at) VALUES ('__system__', '', '', 'SYSTEM_HEALTH', 'system-health:%s', '%s', 'Service unhealthy: x (HTTP 503)', %s, %s);\n",
				service, status, ago(i.from), closed)
		}
	}
	database.Exec(t, "INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'System Alerts');"+b.String())
}

// An older schema has neither the table nor the view.
func TestAnOlderSchemaHasNoAvailability(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	database.Exec(t, "DROP VIEW ops_worker_incidents; DROP FUNCTION ops_worker_list_incidents; DROP TABLE ops_worker_watch")
	report := newReader(t, database.URL).report(t)
	wantUnreadable(t, report, AvailabilitySection, "there is no table ops_worker_watch")
	if text := printed(t, report, 80, false); !strings.Contains(text, "AVAILABILITY  not read: there is no table ops_worker_watch\n") {
		t.Error(text)
	}
}

func TestALeftOutSectionIsNotRead(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	database.Exec(t, "DROP TABLE ops_worker_watch")
	report, err := newReader(t, database.URL).Read(t.Context(), AvailabilitySection)
	if err != nil || len(report.Unreadable) > 0 || report.Availability == nil || len(report.Availability) > 0 {
		t.Errorf("%v, unreadable %v, availability %v", err, report.Unreadable, report.Availability)
	}
}

// However many alerts the tenants have, the system's are read through the index.
func TestTheAvailabilityIsReadThroughTheIndex(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, `INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at, closed_at)
		SELECT CASE WHEN i % 50 = 0 THEN '__system__' ELSE 't' || i % 9 END, 's', 'd', 'x', 'system-health:' || i % 20, 'CLOSED', 'x', now() - make_interval(secs => i), now() - make_interval(secs => i - 60)
		FROM generate_series(1, 200000) i`)
	database.Exec(t, "ANALYZE fleet_alert")
	at := []time.Time{time.Now()}
	text := strings.Join(pgtest.Plans(t, database.Pool(t), func(ctx context.Context, q *db.Queries) {
		_, _ = q.StatusAvailability(ctx, db.StatusAvailabilityParams{Services: []string{"s"}, BeganAts: at, EndedAts: at, WatchedShare: watchedShare})
	}), "\n")
	if strings.Contains(text, "Seq Scan on fleet_alert") || !strings.Contains(text, "on idx_fleet_alert_tenant") {
		t.Errorf("the plan is\n%s", text)
	}
}

const window = `INSERT INTO alert_maintenance_windows (tenant_id, name, starts_at, ends_at, device_types) VALUES
	('__system__', 'planned upgrade', now() - interval '1 hour', now() + interval '1 hour', NULL),
	('__system__', 'to come', now() + interval '1 hour', NULL, NULL)`

func TestMaintenanceIsShown(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform) // of a release without the table
	role, address := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	for _, table := range tables {
		database.Exec(t, fmt.Sprintf("GRANT SELECT ON %s, ops_worker_series TO %s", table, role))
	}
	r := newReader(t, address)
	wantFull(t, r.report(t))

	database.NewerTables(t)
	database.Exec(t, window)
	// The platform's own policies bind the role, and then the operator's role has no right.
	wantUnreadable(t, r.report(t), MaintenanceSection, "row-level security would hide rows of alert_maintenance_windows from "+role)
	database.Exec(t, "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM pulse_operator; GRANT SELECT ON fleet_alert TO pulse_operator; GRANT pulse_operator TO "+role)
	report := r.report(t)
	wantUnreadable(t, report, MaintenanceSection, "pulse_operator may not read alert_maintenance_windows")
	if text := printed(t, report, 120, false); !strings.Contains(text, "MAINTENANCE  not read: pulse_operator may not read alert_maintenance_windows\n") {
		t.Error(text)
	}

	database.Exec(t, "GRANT SELECT ON alert_maintenance_windows TO pulse_operator")
	report = r.report(t)
	wantFull(t, report)
	if w := report.Maintenance; len(w) != 1 || w[0].Name != "planned upgrade" {
		t.Errorf("maintenance %+v", w)
	}
	if text := printed(t, report, 120, false); !strings.Contains(text, "UTC: planned upgrade (all services)\n") {
		t.Error(text)
	}
	if text, err := json.Marshal(report); err != nil || !strings.Contains(string(text), `"maintenance":[{"id":"`) {
		t.Errorf("%v: %s", err, text)
	}
}

func TestALockedMaintenanceTableCostsItsLineAlone(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.Exec(t, platform)
	database.NewerTables(t)
	r := newReader(t, database.URL)
	r.timeout = 10 * time.Second // of which it waits a part
	tx, err := database.Pool(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "LOCK alert_maintenance_windows"); err != nil {
		t.Fatal(err)
	}
	wantUnreadable(t, r.report(t), MaintenanceSection, "alert_maintenance_windows is locked")
}

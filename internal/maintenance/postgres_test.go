package maintenance

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const systemTenant = "INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'System Alerts'), ('t1', 'One')"

// read reads as the health monitor does, and then asks for the time in the same transaction.
func read(t *testing.T, pool *pgxpool.Pool) (windows Windows, err error) {
	t.Helper()
	goesOn := db.InTx(t.Context(), pool, db.ReadOnly, limits, func(q *db.Queries) error {
		if _, err := q.EnterPlatformScope(t.Context()); err != nil {
			return err
		}
		windows, err = Read(t.Context(), q)
		_, failed := q.Now(t.Context())
		return failed
	})
	if goesOn != nil && (err == nil || errors.Is(err, ErrNoTable)) {
		t.Errorf("the transaction is aborted: %v", goesOn)
	}
	return windows, err
}

func TestReadTellsOnlyTheWindowsOfSystemAlerts(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.NewerTables(t)
	database.Exec(t, systemTenant)
	database.Exec(t, `
		INSERT INTO alert_maintenance_windows (tenant_id, window_id, name, starts_at, ends_at, recurring, site_ids, device_types, enabled) VALUES
		('__system__', 'a once', 'upgrade', '2026-01-01 00:00Z', '2999-01-01 00:00Z', NULL, NULL, '{ingest,mqtt}', true),
		('__system__', 'b open', 'move', '2026-01-02 00:00Z', NULL, 'null', '{}', '{}', true),
		('__system__', 'c infinite', 'move', '-infinity', 'infinity', NULL, NULL, ARRAY['ingest', NULL], true),
		('__system__', 'd weekly', 'backup', '2026-01-03 00:00Z', NULL, '{"dow": [6, 0], "start_hour": 22, "end_hour": 4}', NULL, NULL, true),
		('__system__', 'e unreadable', 'odd', '2026-01-04 00:00Z', NULL, '{"start_hour": "two"}', NULL, NULL, true),
		('__system__', 'f to come', 'later', '2998-01-01 00:00Z', NULL, NULL, NULL, NULL, true),
		('__system__', 'g far', 'x', '2998-01-02 00:00Z', '99999-12-31 00:00Z', NULL, NULL, NULL, true),
		('__system__', 'never too', 'x', '99999-12-31 00:00Z', NULL, NULL, NULL, NULL, true),
		('__system__', 'never', 'x', 'infinity', NULL, NULL, NULL, NULL, true),
		('__system__', 'disabled', 'x', '2026-01-01 00:00Z', NULL, NULL, NULL, NULL, false),
		('__system__', 'h over', 'x', '2026-01-05 00:00Z', now(), NULL, NULL, NULL, true),
		('__system__', 'long over', 'x', '2026-01-01 00:00Z', now() - interval '25 hours', NULL, NULL, NULL, true),
		('__system__', 'of a site', 'x', '2026-01-01 00:00Z', NULL, NULL, '{s1}', NULL, true),
		('t1', 'of a tenant', 'x', '2026-01-01 00:00Z', NULL, NULL, NULL, NULL, true)`)
	windows, err := read(t, database.Pool(t))
	if err != nil {
		t.Fatal(err)
	}
	_, fault := readWeekly([]byte("{}"))
	day := func(year, day int) time.Time { return time.Date(year, 1, day, 0, 0, 0, 0, time.UTC) }
	want := Windows{
		{"c infinite", "move", time.Time{}, time.Time{}, nil, []string{"ingest", ""}, ""},
		{"a once", "upgrade", day(2026, 1), day(2999, 1), nil, []string{"ingest", "mqtt"}, ""},
		{"b open", "move", day(2026, 2), time.Time{}, nil, []string{}, ""},
		{"d weekly", "backup", day(2026, 3), time.Time{}, &Weekly{[]time.Weekday{6, 0}, 22, 4}, []string{}, ""},
		{"e unreadable", "odd", day(2026, 4), time.Time{}, nil, []string{}, fault},
		{"h over", "x", day(2026, 5), windows[5].Ends, nil, []string{}, ""},
		{"f to come", "later", day(2998, 1), time.Time{}, nil, []string{}, ""},
		{"g far", "x", day(2998, 2), time.Time{}, nil, []string{}, ""},
	}
	if diff := cmp.Diff(want, windows); diff != "" {
		t.Error(diff)
	}
	listed, now, err := List(t.Context(), database.Pool(t))
	if err != nil || len(listed) != len(want)-1 || slices.ContainsFunc(listed, func(w Window) bool { return w.ID == "h over" }) || windows[5].On(now) {
		t.Errorf("%v, %v", listed, err)
	}
	if _, err := json.Marshal(windows); err != nil { // as list --json and status --json do
		t.Error(err)
	}
	for _, w := range windows[:2] {
		if w.Ends.IsZero() != (w.ID == "c infinite") {
			t.Errorf("%s ends at %s", w.ID, w.Ends)
		}
	}
}

func TestAReleaseWithoutTheTableAbortsNothing(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t)
	if windows, err := read(t, pool); windows != nil || !errors.Is(err, ErrNoTable) {
		t.Errorf("%v, %v", windows, err)
	}
	if _, err := Start(t.Context(), pool, "x", nil, time.Hour); !errors.Is(err, ErrNoTable) {
		t.Error(err)
	}
	if _, err := End(t.Context(), pool, nil); !errors.Is(err, ErrNoTable) {
		t.Error(err)
	}
	pgtest.WantRows(t, pool, "SELECT tenant_id FROM tenants WHERE tenant_id = '__system__'")
}

// What forced row-level security would hide is an error with advice, not an empty list.
func TestARoleThatThePoliciesBind(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.NewerTables(t)
	role, login := database.Role(t, "NOSUPERUSER NOBYPASSRLS")
	database.Exec(t, `GRANT SELECT, INSERT, UPDATE ON alert_maintenance_windows TO "`+role+`"; GRANT SELECT, INSERT ON tenants TO "`+role+`"`)
	pool := database.PoolAs(t, login)
	if windows, err := read(t, pool); !db.IsForbidden(err) {
		t.Errorf("%v, %v", windows, err)
	}
	_, err := Start(t.Context(), pool, "x", nil, time.Hour)
	if !db.IsForbidden(err) || !strings.Contains(err.Error(), "ops-worker grants ROLE") {
		t.Error(err)
	}
	database.Exec(t, `GRANT pulse_operator TO "`+role+`"; GRANT SELECT, INSERT, UPDATE ON alert_maintenance_windows TO pulse_operator; GRANT SELECT, INSERT ON tenants TO pulse_operator`)
	if _, err := Start(t.Context(), pool, "x", nil, time.Hour); err != nil {
		t.Error(err)
	}
	if windows, err := read(t, pool); err != nil || len(windows) != 1 {
		t.Errorf("%v, %v", windows, err)
	}
}

func TestEndTouchesOnlyWhatItNames(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.NewerTables(t)
	database.Exec(t, systemTenant)
	pool := database.Pool(t)
	database.Exec(t, `
		INSERT INTO alert_maintenance_windows (tenant_id, window_id, name, starts_at, ends_at, recurring, site_ids) VALUES
		('__system__', 'on', 'x', '2026-01-01 00:00Z', NULL, NULL, NULL),
		('__system__', 'to come', 'x', '2998-01-01 00:00Z', '2999-01-01 00:00Z', NULL, NULL),
		('__system__', 'weekly', 'x', '2026-01-01 00:00Z', NULL, '{"start_hour": 0, "end_hour": 24}', NULL),
		('__system__', 'unreadable', 'x', '2026-01-01 00:00Z', NULL, '{}', NULL),
		('__system__', 'of a site', 'x', '2026-01-01 00:00Z', NULL, NULL, '{s1}'),
		('t1', 'on', 'x', '2026-01-01 00:00Z', NULL, NULL, NULL)`)
	const state = "SELECT tenant_id, window_id, enabled, ends_at <= clock_timestamp() FROM alert_maintenance_windows ORDER BY 1, 2"
	untouched := pgtest.Rows(t, pool, state)
	for _, ids := range [][]string{{"on", "nobody"}, {"of a site"}, {""}} {
		if ended, err := End(t.Context(), pool, ids); err == nil || ended != nil {
			t.Errorf("%q: %v", ids, ended)
		}
		pgtest.WantRows(t, pool, state, untouched...)
	}
	if ended, err := End(t.Context(), pool, nil); err != nil || len(ended) != 1 || ended[0].ID != "on" {
		t.Errorf("%v, %v", ended, err)
	}
	if ended, err := End(t.Context(), pool, nil); err == nil || !strings.Contains(err.Error(), "no one-time window is on") {
		t.Errorf("%v, %v", ended, err)
	}
	pgtest.WantRows(t, pool, state, "__system__ of a site true -", "__system__ on true true", "__system__ to come true false",
		"__system__ unreadable true -", "__system__ weekly true -", "t1 on true -")
	if ended, err := End(t.Context(), pool, []string{"to come", "weekly", "unreadable", "weekly"}); err != nil || len(ended) != 3 {
		t.Errorf("%v, %v", ended, err)
	}
	pgtest.WantRows(t, pool, state, "__system__ of a site true -", "__system__ on true true", "__system__ to come false false",
		"__system__ unreadable false -", "__system__ weekly false -", "t1 on true -")
}

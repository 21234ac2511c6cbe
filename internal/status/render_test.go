package status

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"ops_worker/db"
	"ops_worker/internal/maintenance"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 3, 4, 12, 34, 56, 0, time.UTC)

func before(d time.Duration) time.Time { return now.Add(-d) }

// sampled is a platform that is well but for one service.
func sampled() gathering {
	wave := func(row db.StatusSeriesRow, from, to int, value func(i int) float64) db.StatusSeriesRow {
		row.Newest = before(2 * time.Second)
		for i := from; i < to; i++ {
			row.Buckets = append(row.Buckets, int64(i))
			row.Averages = append(row.Averages, value(3*i))
			row.Rates = append(row.Rates, value(3*i))
		}
		row.Value, row.Rate = value(3*to-1), value(3*to-1)
		return row
	}
	sine := func(base, swing float64) func(int) float64 {
		return func(i int) float64 { return math.Round(base + swing*math.Sin(float64(i)/6)) }
	}
	outage := wave(db.StatusSeriesRow{Service: "ingest", MetricName: "messages_written"}, 0, buckets, sine(180, 60))
	outage.Buckets = append(outage.Buckets[:7:7], outage.Buckets[10:]...)
	outage.Rates = append(outage.Rates[:7:7], outage.Rates[10:]...)
	outage.Averages = append(outage.Averages[:7:7], outage.Averages[10:]...)
	return gathering{
		server: db.StatusServerRow{Database: "iotcloud", Version: "15.18 (Debian 15.18-0+deb12u1)", LoginRole: "iot", Now: now},
		lease: &db.ReadLeaseRow{Holder: "node-1/41/0f3a", Epoch: 7, AcquiredAt: before(50 * time.Hour), ExpiresAt: now.Add(14 * time.Second),
			LastCycleAt: before(2 * time.Second), CycleSeconds: 5, Held: true},
		services: []db.StatusServicesRow{
			{Service: "ingest", Status: "unhealthy", LatencyMs: 1240, State: "degraded", HttpStatus: "503", CheckedAt: before(20 * time.Second)},
			{Service: "mqtt", Status: "unhealthy", LatencyMs: -1, State: "down", Error: "connection refused", CheckedAt: before(20 * time.Second)},
			{Service: "report", Status: "unhealthy", LatencyMs: -1, State: "unknown", Error: "lookup report on 10.0.0.2:53: no such host, after three attempts", CheckedAt: before(20 * time.Second)},
			{Service: "evaluator", Status: "healthy", LatencyMs: 3, State: "healthy", CheckedAt: before(20 * time.Second)},
			{Service: "postgres", Status: "healthy", LatencyMs: 1, State: "healthy", CheckedAt: before(20 * time.Second)},
		},
		streaks: []db.StatusStreaksRow{
			{Service: "evaluator", Healthy: true, Since: before(76 * time.Hour), Checks: 4560, CheckedAt: before(20 * time.Second)},
			{Service: "ingest", Healthy: false, Since: before(12*time.Minute + 20*time.Second), Checks: 13, CheckedAt: before(20 * time.Second)},
			{Service: "mqtt", Healthy: true, Since: before(time.Hour), Checks: 60, CheckedAt: before(20 * time.Second)},     // of another finding
			{Service: "postgres", Healthy: true, Since: before(time.Hour), Checks: 60, CheckedAt: before(80 * time.Second)}, // of another check
		},
		alerts: []db.OpenSystemAlertsRow{
			{Service: "ingest", Status: "OPEN", Summary: "Service unhealthy: ingest (HTTP 503)", CreatedAt: before(12 * time.Minute), Open: 2},
			{Service: "mqtt", Status: "ACKNOWLEDGED", Summary: "Service unhealthy: mqtt (connection refused)", CreatedAt: before(26 * time.Hour), Open: 2},
		},
		availability: []db.StatusAvailabilityRow{
			{Service: "evaluator", Percent24h: 100, Percent7d: 100, Percent30d: 99.99999, StartedAt: before(20 * 24 * time.Hour), EndedAt: before(20*24*time.Hour - time.Minute), Reason: "HTTP 500"},
			{Service: "ingest", Percent24h: 99.13734, Percent7d: 99.87686, Percent30d: 99.97127, StartedAt: before(12*time.Minute + 20*time.Second), EndedAt: time.Unix(0, 0), Reason: "HTTP 503"},
			{Service: "mqtt", Percent24h: 98, Percent7d: 12.5, Percent30d: math.NaN(), StartedAt: before(26 * time.Hour), EndedAt: before(25 * time.Hour), Reason: "lookup mqtt on 10.0.0.2:53: no such host, after three attempts"},
			{Service: "postgres", Percent24h: 100, Percent7d: 100, Percent30d: 100, StartedAt: time.Unix(0, 0), EndedAt: time.Unix(0, 0)},
			{Service: "removed", Percent24h: math.NaN(), Percent7d: math.NaN(), Percent30d: 100, StartedAt: time.Unix(0, 0), EndedAt: time.Unix(0, 0)},
		},
		series: []db.StatusSeriesRow{
			wave(db.StatusSeriesRow{Service: "evaluator", MetricName: "healthy"}, 0, buckets, sine(1, 0)),
			wave(db.StatusSeriesRow{Service: "evaluator", MetricName: "alerts_created"}, 0, buckets, func(i int) float64 { return float64(i%7) / 10 }),
			outage,
			wave(db.StatusSeriesRow{Service: "ingest", MetricName: "queue_depth"}, 0, buckets, sine(40, 30)),
			wave(db.StatusSeriesRow{Service: "platform", MetricName: "deliveries_pending"}, 0, buckets, sine(0, 0)),
			wave(db.StatusSeriesRow{Service: "platform", MetricName: "devices_online"}, 15, buckets, sine(9_412_000, 3000)),
			wave(db.StatusSeriesRow{Service: "postgres", MetricName: "db_size_bytes"}, 0, buckets, func(i int) float64 { return 8.1e9 + 2e6*float64(i) }),
			{Service: "report", MetricName: "rendered", Newest: before(2 * time.Second), Value: 5, Rate: math.NaN(), Buckets: []int64{19}, Averages: []float64{5}, Rates: []float64{math.NaN()}},
		},
		unreadable: map[Section]string{},
	}
}

func reportOf(change func(*gathering)) Report {
	g := sampled()
	change(&g)
	return g.report(time.Second, time.Minute) // the lease knows better than the first
}

// stages are platforms in every state.
var stages = map[string]func(*gathering){
	"well": func(*gathering) {},
	"empty": func(g *gathering) {
		*g = gathering{server: g.server, unreadable: map[Section]string{
			LeaderSection: "there is no table ops_worker_lease", ServicesSection: "there is no table service_health", SinceSection: "there is no table ops_worker_streak",
			AlertsSection: "there is no table fleet_alert", AvailabilitySection: "there is no table ops_worker_watch", SeriesSection: "there is no table system_metrics"}}
	},
	"ceased": func(g *gathering) { // the series of one service
		for i := range g.series {
			if g.series[i].Service == "ingest" {
				g.series[i].Newest = before(7 * time.Minute)
			}
		}
	},
	"certificates": func(g *gathering) { // of which one has ended, one ends soon, and one does not
		g.services[2].Error = "certificate has expired or is not yet valid"
		for i, ends := range map[int]string{2: "2026-03-04T10:00:00Z", 3: "2026-03-09T12:00:00Z", 4: "2026-06-01T00:00:00Z"} {
			g.services[i].CertificateEnds = ends
		}
	},
	"migrated": func(g *gathering) { *g = gathering{server: g.server, unreadable: map[Section]string{}} },
	"planned": func(g *gathering) { // and alerts were never on
		g.alerts, g.availability = nil, []db.StatusAvailabilityRow{}
		g.windows = maintenance.Windows{
			{ID: "1", Name: "planned upgrade", Starts: before(time.Hour), Ends: now.Add(time.Hour)},
			{ID: "2", Name: "backup", Starts: before(72 * time.Hour), Weekly: &maintenance.Weekly{StartHour: 12, EndHour: 13}, Services: []string{"ingest", "mqtt"}},
			{ID: "3", Name: "not yet\x1b[2J known", Starts: before(time.Minute), Services: []string{"re\nport"}},
			{ID: "4", Name: "to come", Starts: now.Add(time.Minute)},
			{ID: "5", Name: "over", Starts: before(time.Hour), Ends: now},
		}
	},
	"forbidden": func(g *gathering) {
		for _, s := range sections {
			g.unreadable[s.name] = "iot may not read " + s.table
		}
		*g = gathering{server: g.server, unreadable: g.unreadable}
	},
	"servicesless": func(g *gathering) { g.unreadable[ServicesSection], g.services = "service_health is locked", nil },
	"old": func(g *gathering) {
		g.lease.Held, g.lease.ExpiresAt, g.lease.LastCycleAt = false, before(26*time.Hour), before(26*time.Hour+14*time.Second)
		for i := range g.services {
			g.services[i].CheckedAt = before(26*time.Hour + 30*time.Second)
		}
		for i, s := range g.series {
			g.series[i] = db.StatusSeriesRow{Service: s.Service, MetricName: s.MetricName, Newest: g.lease.LastCycleAt, Value: s.Value, Rate: math.NaN(),
				Buckets: []int64{-1500}, Averages: []float64{s.Value}, Rates: []float64{math.NaN()}}
		}
	},
	"behind": func(g *gathering) { // the lease is held, and nothing is stored
		g.lease.LastCycleAt = before(3*time.Minute + time.Second)
		for i := range g.series {
			g.series[i].Newest = g.lease.LastCycleAt
		}
	},
	"handedback": func(g *gathering) {
		g.lease.Held, g.lease.Holder, g.lease.LastHolder, g.lease.ExpiresAt = false, "", "node-1/41/0f3a", before(5*time.Second)
	},
	"standby": func(g *gathering) {
		g.server.Standby, g.replayedAt = true, before(42*time.Second)
		g.lease.Held, g.lease.ExpiresAt, g.lease.LastCycleAt = false, before(29*time.Second), before(44*time.Second)
		g.unreadable[SinceSection], g.streaks = "there is no table ops_worker_streak", nil
		g.unreadable[AlertsSection], g.alerts = "row-level security would hide rows of fleet_alert from iot", nil
		g.unreadable[AvailabilitySection], g.availability = g.unreadable[AlertsSection], nil
	},
	"hostile": func(g *gathering) {
		evil := "\x1b[2J\x1b]0;owned\x07\u009b31m\r\nline\ttwo \u202eright to left\u200b \xff" + strings.Repeat("漢字", 90)
		g.server.Database, g.lease.Holder = evil, evil
		g.services = []db.StatusServicesRow{
			{Service: strings.Repeat("x", 64), Status: "unhealthy", LatencyMs: 1<<31 - 1, State: "unknown", Error: evil, CheckedAt: now},
			{Service: "ingest", Status: "unhealthy", LatencyMs: -1, State: "degraded", HttpStatus: evil, Error: evil, CheckedAt: now},
			{Service: "evaluator", Status: "healthy", LatencyMs: -1, State: evil, Error: evil, CertificateEnds: evil, CheckedAt: now},
		}
		g.alerts = []db.OpenSystemAlertsRow{{Service: strings.Repeat("y", 64), Status: "OPEN", Summary: evil, CreatedAt: before(-time.Hour)}}
		g.availability = []db.StatusAvailabilityRow{{Service: "ingest", Percent24h: -1.7e308, Percent7d: math.Inf(1), Percent30d: math.Inf(-1), StartedAt: before(-time.Hour), EndedAt: before(time.Hour), Reason: evil}}
		g.windows = maintenance.Windows{{Name: evil, Services: []string{evil, ""}}}
		g.series = append(g.series, db.StatusSeriesRow{Service: strings.Repeat("z", 64), MetricName: evil, Newest: before(-2 * time.Hour), Value: -1.7e308,
			Buckets: []int64{0, 10, 19, 20, 1 << 62}, Averages: []float64{1.7e308, -1.7e308, math.Inf(1), 3, 4}, Rates: make([]float64, 5)})
	},
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, stage := range stages {
		widths := []int{80}
		if name == "well" {
			widths = []int{80, 120, 140}
		}
		for _, width := range widths {
			golden(t, fmt.Sprintf("%s-%d", name, width), printed(t, reportOf(stage), width, false))
		}
	}
	golden(t, "well-colour", printed(t, reportOf(stages["well"]), 80, true))
	golden(t, "old-colour", printed(t, reportOf(stages["old"]), 80, true))
}

// The names are what scripts build on.
func TestGoldenJSON(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"well", "empty", "standby", "hostile", "planned"} {
		r := reportOf(stages[name])
		for i := range r.Series { // an hour is long
			r.Series[i].LastHour = r.Series[i].LastHour[len(r.Series[i].LastHour)-2:]
		}
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", string(text)+"\n")
	}
}

func printed(t *testing.T, r Report, width int, colour bool) string {
	t.Helper()
	var b strings.Builder
	if err := r.Print(&b, width, colour); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(file, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; with -update it is written anew.\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// Whatever the platform is like and however narrow the terminal: no line is wider,
// and nothing but our own colours drives the terminal.
func TestNoLineBreaksTheScreen(t *testing.T) {
	t.Parallel()
	for name, stage := range stages {
		r := reportOf(stage)
		for width := 1; width <= 250; width += 3 {
			coloured := printed(t, r, width, true)
			text := sgr.ReplaceAllString(coloured, "")
			if plain := printed(t, r, width, false); plain != trimmed(text) {
				t.Fatalf("%s at %d: the colours change more than colour:\n%s\n%s", name, width, plain, text)
			}
			for l := range strings.Lines(text) {
				l = strings.TrimSuffix(l, "\n")
				if n := columns(l); n > width {
					t.Fatalf("%s at %d: %d columns: %q", name, width, n, l)
				}
				if i := strings.IndexFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || !utf8.ValidString(l) {
					t.Fatalf("%s at %d: %q", name, width, l)
				}
			}
		}
	}
}

func trimmed(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		b.WriteString(strings.TrimRight(l, " \n") + "\n")
	}
	return b.String()
}

func TestColumns(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"": 0, "abc": 3, "…▁█": 3, "é": 1} {
		if got := columns(text); got != want {
			t.Errorf("columns(%q) = %d, want %d", text, got, want)
		}
	}
	for _, test := range []struct {
		text string
		room int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"äöü", 2, "ä…"}, {"abc", 0, ""}} {
		if got := cut(test.text, test.room); got != test.want {
			t.Errorf("cut(%q, %d) = %q, want %q", test.text, test.room, got, test.want)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		s    Series
		v    float64
		want string
	}{
		{Series{}, 0, "0"}, {Series{}, 7, "7"}, {Series{}, 7.25, "7.2"}, {Series{}, 0.004, "0.00"}, {Series{}, 123456, "123456"}, {Series{}, 123.4, "123"},
		{Series{}, -9_412_345, "-9.4M"}, {Series{}, 2.5e9, "2.5G"}, {Series{}, 3e12, "3.0T"}, {Series{}, 1.7e308, "1.7e+308"},
		{Series{Kind: "counter"}, 12.5, "12.5/s"},
		{Series{Metric: "db_size_bytes"}, 8.1e9, "8.1GB"}, {Series{Metric: "db_size_bytes"}, -1500, "-1500B"}, {Series{Metric: "db_size_bytes"}, 12, "12B"},
	} {
		if got := test.s.format(test.v); got != test.want {
			t.Errorf("format(%v) of %v = %s, want %s", test.v, test.s, got, test.want)
		}
	}
}

func values(vs ...float64) []*float64 {
	list := make([]*float64, len(vs))
	for i, v := range vs {
		list[i] = number(v)
	}
	return list
}

func TestSparkline(t *testing.T) {
	t.Parallel()
	nan := math.NaN()
	for _, test := range []struct {
		values []*float64
		want   string
	}{
		{nil, ""},
		{values(nan, nan), "  "},
		{values(0, 1, 2, 3, 4, 5, 6, 7), "▁▂▃▄▅▆▇█"},
		{values(-1, nan, 1), "▁ █"},
		{values(5, 5, nan, 5), "▁▁ ▁"},
		{values(1e9, 1e9+0.1), "▁▁"}, // what is left of rounding
		{values(-1.7e308, 1.7e308), "▁█"},
	} {
		if got := sparkline(test.values); got != test.want {
			t.Errorf("sparkline(%v) = %q, want %q", test.values, got, test.want)
		}
	}
}

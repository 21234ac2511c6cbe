package collectors

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
	"ops_worker/internal/lease/leasetest"
	"ops_worker/internal/pgtest"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// fullRun lets a worker run until it has stored what it does in a minute, and returns
// how many rows of each series ("service metric") a cycle has, and how many one cycle
// of a minute has besides.
func fullRun(t *testing.T, settings ...string) (cycle, minute map[string]int) {
	t.Helper()
	database := pgtest.New(t)
	database.Exec(t, contracttest.Seed)
	pool := database.Pool(t)
	stop := startWorker(t, workerConfig(t, database.URL, settings...), zerolog.Nop())
	has := func(metric string) bool {
		return pgtest.Count(t, pool, "SELECT count(*) FROM system_metrics WHERE metric_name = $1", metric) > 0
	}
	pgtest.Eventually(t, "all is stored", func() bool {
		return has(config.LatencySample) && has("table_bytes") && pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics") >= 4
	})
	stop()
	cycle, minute = map[string]int{}, map[string]int{}
	cycles := pgtest.Count(t, pool, "SELECT count(DISTINCT time) FROM system_metrics")
	for name, cyclesWith := range grouped(t, pool, "count(DISTINCT time)") {
		rows := grouped(t, pool, "count(DISTINCT tags)")[name]
		if cyclesWith >= cycles-1 { // a term's first has no rate
			cycle[name] = rows
		} else {
			minute[name] = rows
		}
	}
	return cycle, minute
}

// grouped is an aggregate of each series.
func grouped(t *testing.T, pool *pgxpool.Pool, aggregate string) map[string]int {
	t.Helper()
	result := map[string]int{}
	for _, row := range pgtest.Rows(t, pool, "SELECT service, metric_name, "+aggregate+" FROM system_metrics GROUP BY 1, 2") {
		i := strings.LastIndex(row, " ")
		n, err := strconv.Atoi(row[i+1:])
		if err != nil {
			t.Fatal(err)
		}
		result[row[:i]] = n
	}
	return result
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// A week at the default settings has its budget, since every viewer's page reads all of it,
// and no series that the tests do not know.
func TestAWeeksRowsHaveABudget(t *testing.T) {
	t.Parallel()
	cycle, rest := fullRun(t)
	if diff := cmp.Diff(contracttest.Names(contracttest.Samples, contracttest.LaterSamples), slices.Sorted(maps.Keys(cycle))); diff != "" {
		t.Errorf("of a cycle: %s", diff)
	}
	minute, fiveMinutes := map[string]int{}, map[string]int{}
	for _, name := range contracttest.Names(contracttest.MinuteSamples, contracttest.RunSamples) {
		minute[name] = rest[name]
		delete(rest, name)
	}
	for _, name := range contracttest.Names(contracttest.FiveMinuteSamples) {
		fiveMinutes[name] = rest[name]
		delete(rest, name)
	}
	if len(rest) > 0 || slices.Contains(slices.Collect(maps.Values(minute)), 0) || slices.Contains(slices.Collect(maps.Values(fiveMinutes)), 0) {
		t.Errorf("beside the cycle's: %v, %v, and unknown %v", minute, fiveMinutes, rest)
	}
	const minutes = 7 * 24 * 60
	week := minutes * (12*sum(cycle) + sum(minute) + sum(fiveMinutes)/5)
	t.Logf("%d rows a week: %d a cycle, %d a minute, %d in five minutes", week, sum(cycle), sum(minute), sum(fiveMinutes))
	if week > 2_200_000 {
		t.Errorf("%d rows a week", week)
	}
}

// docs/metrics.md has every series of a worker that monitors all of the platform, and
// no other; how often each comes, and which are counters.
func TestTheMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	broker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	host, port, _ := net.SplitHostPort(broker.Addr().String())
	var environ []string
	for _, s := range config.PlatformServices() {
		switch {
		case s.Kind == config.ProbeTCP:
			environ = append(environ, s.Variable+"="+host, "MQTT_PORT="+port)
		case s.Variable != "":
			environ = append(environ, s.Variable+"="+simulated(t, `{}`))
		}
	}
	cycle, minute := fullRun(t, environ...)
	stored := map[string]string{ // where there is a standby
		"postgres replication_lag_bytes":   "minute",
		"postgres replication_lag_seconds": "minute",
	}
	for name := range cycle {
		stored[name] = "cycle"
	}
	for name := range minute {
		stored[name] = "minute"
	}
	for _, name := range contracttest.Names(contracttest.FiveMinuteSamples) {
		stored[name] = "5 minutes"
	}
	documented, kinds := documentedMetrics(t)
	if diff := cmp.Diff(stored, documented); diff != "" {
		t.Errorf("docs/metrics.md (+) is not what is stored (-): %s", diff)
	}
	for _, s := range config.PlatformServices() {
		for _, c := range s.Counters {
			if name := s.Name + " " + c.Name; (kinds[name] == "gauge") != c.Gauge {
				t.Errorf("docs/metrics.md calls %s a %s", name, kinds[name])
			}
		}
	}
}

// documentedMetrics are how often each series comes, and of which kind it is.
func documentedMetrics(t *testing.T) (often, kinds map[string]string) {
	t.Helper()
	content, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	words := func(cell string) []string {
		return strings.Split(strings.ReplaceAll(strings.TrimSpace(cell), "`", ""), ", ")
	}
	often, kinds = map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(content)) {
		cells := strings.Split(line, "|")
		if len(cells) != 8 || !strings.Contains(cells[1], "`") {
			continue
		}
		for _, metric := range words(cells[1]) {
			for _, service := range words(cells[2]) {
				name := service + " " + metric
				if _, twice := often[name]; twice {
					t.Errorf("docs/metrics.md has %s twice", name)
				}
				often[name], kinds[name] = words(cells[6])[0], words(cells[4])[0]
			}
		}
	}
	return often, kinds
}

// Each check of a service that answered is one sample, in the next cycle, and at most
// one a minute.
func TestLatenciesAreStoredOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pass(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		store := newFakeStore()
		held := leasetest.Held(t, store, 24*time.Hour)
		collector := collectorOf(nil, store, held, spool.NewMemory(10), 5*time.Second)
		cycle := func(want ...string) {
			t.Helper()
			if err := collector.Cycle(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range collector.gatherer.last.Samples {
				if s.Metric == config.LatencySample {
					got = append(got, fmt.Sprintf("%s %g", s.Service, s.Value))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("at %s: %s", time.Now().Format("04:05"), diff)
			}
			pass(5 * time.Second)
		}
		check := func(latency time.Duration) {
			collector.gatherer.latencies.keep(held.Token(), []probe.Observation{
				observation("keycloak", probe.Reading{Status: probe.Healthy, Latency: latency}),
				observation("mqtt", probe.Reading{Status: probe.Down})})
		}
		cycle()
		check(1500 * time.Microsecond)
		cycle("keycloak 1.5")
		cycle()
		check(2 * time.Millisecond) // in the same minute
		cycle()
		check(3 * time.Millisecond) // the newest counts
		for range 8 {
			cycle()
		}
		cycle("keycloak 3")
		for range 24 {
			cycle() // no check, no sample
		}
		check(4 * time.Millisecond)
		held.Release()
		if _, err := held.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		cycle() // it is of another term
	})
}

// What is due once a minute is so in the first cycle of each, as all that is stored
// once a minute.
func TestAggregatesOfAMinuteGoByTheMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pass(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute + 37*time.Second)))
		p := newSchedule([]db.Aggregate{{Name: "often"}, {Name: "minute", Every: time.Minute}}, 5*time.Second, 0.02)
		var at []string
		for range 40 {
			now := time.Now()
			list := p.begin(now, now)
			r := Readings{Answered: true}
			for _, a := range list {
				r.read(a.Name, time.Millisecond)
			}
			p.ended(r, false)
			if slices.ContainsFunc(list, func(a db.Aggregate) bool { return a.Name == "minute" }) {
				at = append(at, now.Format(":05"))
			}
			if len(list) == 0 {
				t.Errorf("none is due at %s", now)
			}
			pass(5 * time.Second)
		}
		if diff := cmp.Diff([]string{":37", ":02", ":02", ":02"}, at); diff != "" {
			t.Error(diff)
		}
	})
}

// readOne runs one aggregate, and returns its rows as text.
func readOne(t *testing.T, pool *pgxpool.Pool, name string) (rows []string) {
	t.Helper()
	i := slices.IndexFunc(Aggregates, func(a db.Aggregate) bool { return a.Name == name })
	err := db.ReadAggregates(t.Context(), db.New(pool), Aggregates[i:i+1], func(_ db.Aggregate, samples []db.Sample, _ time.Duration) {
		for _, s := range samples {
			rows = append(rows, fmt.Sprintf("%s %s %g", s.MetricName, s.Tags, s.Value))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// Partitions count with their table, and what TimescaleDB keeps without a parent as
// one; a table that is locked is passed over.
func TestTheLargestTables(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	database.Exec(t, `
		CREATE SCHEMA other; CREATE SCHEMA _timescaledb_internal;
		CREATE TABLE other.parted (i int, t text) PARTITION BY RANGE (i);
		CREATE TABLE other.p1 PARTITION OF other.parted FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (i);
		CREATE TABLE other.p11 PARTITION OF other.p1 FOR VALUES FROM (0) TO (10);
		CREATE TABLE other.p2 PARTITION OF other.parted FOR VALUES FROM (10) TO (20);
		CREATE TABLE _timescaledb_internal.chunk () INHERITS (telemetry);
		CREATE TABLE _timescaledb_internal.compressed_1 (t text);
		CREATE TABLE _timescaledb_internal.compressed_2 (t text);
		CREATE TABLE locked (t text);
		INSERT INTO other.parted SELECT i % 20, repeat('x', 1000) FROM generate_series(1, 4000) i;
		INSERT INTO _timescaledb_internal.chunk (time, tenant_id, device_id, metrics) SELECT now(), 't', repeat('d', 1000), '{}' FROM generate_series(1, 3000) i;
		INSERT INTO _timescaledb_internal.compressed_1 SELECT repeat('x', 1000) FROM generate_series(1, 1000) i;
		INSERT INTO _timescaledb_internal.compressed_2 SELECT repeat('x', 1000) FROM generate_series(1, 1000) i;
		INSERT INTO locked SELECT repeat('x', 1000) FROM generate_series(1, 9000) i`)
	largest := func() (names []string) {
		for _, row := range readOne(t, pool, "tables") {
			names = append(names, row[:strings.Index(row, "}")+1])
		}
		if len(names) != 10 {
			t.Errorf("%d tables, want 10", len(names))
		}
		return names
	}
	want := []string{`table_bytes {"table": "locked"}`, `table_bytes {"table": "other.parted"}`, `table_bytes {"table": "telemetry"}`, `table_bytes {"table": "_timescaledb_internal"}`}
	if diff := cmp.Diff(want, largest()[:4]); diff != "" {
		t.Error(diff)
	}
	migration, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer migration.Rollback(context.WithoutCancel(t.Context()))
	if _, err := migration.Exec(t.Context(), "LOCK TABLE locked, other.p2 IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(largest(), " "); strings.Contains(got, "parted") || strings.Contains(got, "locked") {
		t.Errorf("while tables are locked: %s", got)
	}
}

// Tables that come and go fail no reading.
func TestTheLargestTablesWhileTheyAreDropped(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	done := make(chan struct{})
	var dropping sync.WaitGroup
	dropping.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			for _, sql := range []string{"CREATE TABLE passing_%d (i int PRIMARY KEY, t text)", "DROP TABLE passing_%d"} {
				if _, err := pool.Exec(t.Context(), fmt.Sprintf(sql, n)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 100 {
		readOne(t, pool, "tables")
	}
	close(done)
	dropping.Wait()
}

// An ordinary role has no number in the place of what it may not see.
func TestTheLongestTransactionIsNoneWhereItIsHidden(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool := database.Pool(t)
	longest := func(pool *pgxpool.Pool) string {
		for _, row := range readOne(t, pool, "activity") {
			if value, ok := strings.CutPrefix(row, "longest_transaction_seconds {} "); ok {
				return value
			}
		}
		return "none"
	}
	_, own := database.Role(t, "NOSUPERUSER")
	ordinary := database.PoolAs(t, own)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	if _, err := tx.Exec(t.Context(), "SELECT set_config('application_name', 'another', false)"); err != nil {
		t.Fatal(err)
	}
	if got := longest(pool); got == "0" || got == "none" {
		t.Errorf("as superuser: %s", got)
	}
	if got := longest(ordinary); got != "none" {
		t.Errorf("as an ordinary role: %s", got)
	}
	if rows := readOne(t, ordinary, "database totals"); len(rows) != 8 {
		t.Errorf("as an ordinary role: %v", rows)
	}
	for _, name := range []string{"replication lag", "replication bytes"} {
		if rows := readOne(t, ordinary, name); len(rows) != 0 {
			t.Errorf("%s without standbys: %v", name, rows)
		}
	}
}

package doctor

import (
	"strings"
	"testing"
)

// fakeTimescale makes a database answer as one with TimescaleDB 2 would, in
// what the doctor asks: the extension itself is not free to install everywhere.
const fakeTimescale = `
	SET allow_system_table_mods = on;
	INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
	VALUES (999999, 'timescaledb', 10, 'public'::regnamespace, false, '2.28.0');
	CREATE SCHEMA timescaledb_information;
	GRANT USAGE ON SCHEMA timescaledb_information TO PUBLIC;
	CREATE TABLE timescaledb_information.hypertables (hypertable_schema name, hypertable_name name, num_chunks bigint);
	CREATE TABLE timescaledb_information.dimensions (hypertable_schema name, hypertable_name name, dimension_number bigint, time_interval interval);
	CREATE TABLE timescaledb_information.chunks (hypertable_schema name, hypertable_name name, chunk_name name, range_start timestamptz, range_end timestamptz);
	CREATE TABLE timescaledb_information.jobs (job_id int, proc_name name, scheduled boolean, config jsonb, hypertable_schema name, hypertable_name name);
	CREATE TABLE timescaledb_information.continuous_aggregates (hypertable_schema name, hypertable_name name, view_schema name, view_name name);
	CREATE FUNCTION hypertable_size(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 41000000::bigint';
	CREATE FUNCTION approximate_row_count(regclass) RETURNS bigint LANGUAGE sql AS 'SELECT 1800000::bigint';
	INSERT INTO timescaledb_information.hypertables VALUES ('public', 'telemetry', 3), ('public', 'system_metrics', 168);
	INSERT INTO timescaledb_information.dimensions VALUES ('public', 'telemetry', 1, '1 day'), ('public', 'system_metrics', 1, '1 hour');
	INSERT INTO timescaledb_information.chunks
	SELECT 'public', 'system_metrics', 'chunk_' || n, now() - make_interval(hours => n), now() - make_interval(hours => n - 1)
	FROM generate_series(1, 168) n;
	INSERT INTO timescaledb_information.jobs VALUES
		(1001, 'policy_retention', true, '{"drop_after": "7 days"}', 'public', 'system_metrics'),
		(1002, 'policy_compression', true, '{"compress_after": "01:00:00"}', 'public', 'system_metrics'),
		(1003, 'policy_retention', true, '{"drop_after": "90 days"}', 'public', 'telemetry'),
		(1, 'policy_telemetry', true, NULL, NULL, NULL);
	INSERT INTO timescaledb_information.continuous_aggregates VALUES ('public', 'system_metrics', 'public', 'system_metrics_hourly')`

func TestTimescale(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change string
		check  string
		result Result
		found  string
	}{
		"as the platform's migrator leaves it": {"SELECT 1", "timescaledb", OK,
			"TimescaleDB 2.28.0\nsystem_metrics is a hypertable in chunks of 1h\ncompressed after 01:00:00\n" +
				"retention policy: dropped after 7d, as METRICS_RETENTION\ncontinuous aggregates: system_metrics_hourly"},
		"its size": {"SELECT 1", "size", OK, "41.0 MB, about 1.8 million rows, the oldest sample is 7d old"},
		"a young sample in a chunk that began long ago": {"DELETE FROM timescaledb_information.chunks WHERE chunk_name <> 'chunk_100'; UPDATE timescaledb_information.chunks SET range_end = now() + interval '1 day'",
			"size", OK, "the oldest sample is 9m"},
		"as this worker leaves it": {"DELETE FROM timescaledb_information.jobs; DELETE FROM timescaledb_information.continuous_aggregates",
			"timescaledb", OK, "no compression policy (the platform's migrator makes one)\nno retention policy: the worker drops chunks older than 7d"},
		"not converted": {"DELETE FROM timescaledb_information.hypertables WHERE hypertable_name = 'system_metrics'",
			"timescaledb", Warn, "system_metrics is no hypertable"},
		"a policy that does not run": {"UPDATE timescaledb_information.chunks SET range_start = range_start - interval '5 days'",
			"size", Warn, "samples older than the 7d that they are kept for still stand"},
		"chunks that are not dropped": {"DELETE FROM timescaledb_information.jobs; UPDATE timescaledb_information.chunks SET range_start = range_start - interval '6 hours'",
			"size", Warn, "samples older than the 7d"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.database.Exec(t, fakeTimescale)
			s.database.Exec(t, test.change)
			role := s.worker(t)
			s.database.Exec(t, "GRANT pulse_operator TO "+role+"; GRANT SELECT ON ALL TABLES IN SCHEMA timescaledb_information TO PUBLIC")
			c := of(t, s.run(t), test.check)
			if found := strings.Join(c.Found, "\n"); c.Result != test.result || !strings.Contains(found, test.found) {
				t.Errorf("%s is %s: %q\nwant %s: %q", c.Name, c.Result, found, test.result, test.found)
			}
		})
	}
}

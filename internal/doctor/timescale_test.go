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
	CREATE TABLE timescaledb_information.jobs (job_id int, proc_name name, scheduled boolean, config jsonb, hypertable_schema name, hypertable_name name);
	INSERT INTO timescaledb_information.hypertables VALUES ('public', 'telemetry', 3), ('public', 'system_metrics', 168);
	INSERT INTO timescaledb_information.dimensions VALUES ('public', 'telemetry', 1, '1 day'), ('public', 'system_metrics', 1, '1 hour');
	INSERT INTO timescaledb_information.jobs VALUES
		(1001, 'policy_retention', true, '{"drop_after": "7 days"}', 'public', 'system_metrics'),
		(1002, 'policy_compression', true, '{"compress_after": "01:00:00"}', 'public', 'system_metrics'),
		(1003, 'policy_retention', true, '{"drop_after": "90 days"}', 'public', 'telemetry'),
		(1, 'policy_telemetry', true, NULL, NULL, NULL)`

func TestTimescale(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change string
		result Result
		found  string
		advice string
	}{
		"as the platform's migrator leaves it": {"SELECT 1", OK,
			"TimescaleDB 2.28.0; system_metrics is a hypertable in chunks of 1h\ncompressed after 01:00:00; dropped after 7d by a policy, as METRICS_RETENTION", ""},
		"as this worker leaves it": {"DELETE FROM timescaledb_information.jobs", OK, "compressed never; no retention policy: the worker drops chunks older than 7d", ""},
		"another retention":        {`UPDATE timescaledb_information.jobs SET config = '{"drop_after": "1 day"}' WHERE job_id = 1001`, OK, "dropped after 1d by a policy; METRICS_RETENTION is another", ""},
		"not converted": {"DELETE FROM timescaledb_information.hypertables WHERE hypertable_name = 'system_metrics'", Warn,
			"system_metrics is no hypertable", "create_hypertable('system_metrics'"},
		"large chunks":      {"UPDATE timescaledb_information.dimensions SET time_interval = '7 days'", Warn, "up to 7d longer", "set_chunk_time_interval"},
		"a job that sleeps": {"UPDATE timescaledb_information.jobs SET scheduled = false WHERE job_id = 1001", Warn, "policy_retention", "alter_job(1001, scheduled => true)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.database.Exec(t, fakeTimescale)
			s.database.Exec(t, test.change)
			s.worker(t)
			s.database.Exec(t, "GRANT SELECT ON ALL TABLES IN SCHEMA timescaledb_information TO PUBLIC")
			c := of(t, s.run(t), "timescaledb")
			if found, advice := strings.Join(c.Found, "\n"), strings.Join(c.Advice, "\n"); c.Result != test.result || !strings.Contains(found, test.found) || !strings.Contains(advice, test.advice) {
				t.Errorf("%s: %q, %q\nwant %s: %q, %q", c.Result, found, advice, test.result, test.found, test.advice)
			}
		})
	}
}

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
	CREATE TABLE timescaledb_information.hypertables (hypertable_schema name, hypertable_name name);
	CREATE TABLE timescaledb_information.jobs (proc_name name, hypertable_schema name, hypertable_name name);
	INSERT INTO timescaledb_information.hypertables VALUES ('public', 'telemetry'), ('public', 'system_metrics');
	INSERT INTO timescaledb_information.jobs VALUES ('policy_retention', 'public', 'system_metrics'), ('policy_retention', 'public', 'telemetry'), ('policy_telemetry', NULL, NULL)`

func TestTimescale(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change string
		result Result
		found  string
		advice string
	}{
		"as the platform's migrator leaves it": {"SELECT 1", OK, "TimescaleDB 2.28.0\nsystem_metrics is a hypertable, whose samples a policy of TimescaleDB drops", ""},
		"as this worker leaves it":             {"DELETE FROM timescaledb_information.jobs", OK, "a hypertable without a retention policy: the worker drops old chunks", ""},
		"not converted": {"DELETE FROM timescaledb_information.hypertables WHERE hypertable_name = 'system_metrics'", Warn,
			"system_metrics is no hypertable", "create_hypertable('system_metrics'"},
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

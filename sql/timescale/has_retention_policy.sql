-- hypertable_name is NULL for the jobs of no hypertable.
SELECT EXISTS (
    SELECT FROM timescaledb_information.jobs j
    WHERE j.proc_name = 'policy_retention'
      AND j.hypertable_name IS NOT NULL
      AND to_regclass(format('%I.%I', j.hypertable_schema, j.hypertable_name)) = to_regclass($1::text));

-- What TimescaleDB does with system_metrics, for `ops-worker doctor`; no row where it is no hypertable.
WITH metrics AS (
    SELECT to_regclass(format('%I.%I', h.hypertable_schema, h.hypertable_name)) AS relation
    FROM timescaledb_information.hypertables h
    WHERE to_regclass(format('%I.%I', h.hypertable_schema, h.hypertable_name)) = to_regclass('system_metrics')
)
SELECT coalesce((
           SELECT extract(epoch FROM d.time_interval)
           FROM timescaledb_information.dimensions d
           WHERE d.dimension_number = 1
             AND to_regclass(format('%I.%I', d.hypertable_schema, d.hypertable_name)) = m.relation), 0)::float8 AS chunk_seconds,
       coalesce((
           SELECT jsonb_agg(jsonb_build_object(
               'id', j.job_id,
               'name', j.proc_name,
               'scheduled', j.scheduled,
               'drop_seconds', extract(epoch FROM (j.config->>'drop_after')::interval),
               'compress_after', j.config->>'compress_after') ORDER BY j.job_id)
           FROM timescaledb_information.jobs j
           WHERE j.hypertable_name IS NOT NULL
             AND to_regclass(format('%I.%I', j.hypertable_schema, j.hypertable_name)) = m.relation), '[]') AS jobs
FROM metrics m;

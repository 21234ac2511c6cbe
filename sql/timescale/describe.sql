-- What TimescaleDB does with system_metrics, for `ops-worker doctor`; no row where it is no hypertable.
WITH metrics AS (
    SELECT to_regclass(format('%I.%I', h.hypertable_schema, h.hypertable_name)) AS relation
    FROM timescaledb_information.hypertables h
    WHERE to_regclass(format('%I.%I', h.hypertable_schema, h.hypertable_name)) = to_regclass('system_metrics')
), chunks AS (
    SELECT c.range_start, c.range_end
    FROM metrics m
    JOIN timescaledb_information.chunks c ON to_regclass(format('%I.%I', c.hypertable_schema, c.hypertable_name)) = m.relation
)
SELECT @extschema@.hypertable_size(m.relation)::float8 AS bytes,
       @extschema@.approximate_row_count(m.relation)::float8 AS rows,
       coalesce((
           SELECT extract(epoch FROM d.time_interval)
           FROM timescaledb_information.dimensions d
           WHERE d.dimension_number = 1
             AND to_regclass(format('%I.%I', d.hypertable_schema, d.hypertable_name)) = m.relation), 0)::float8 AS chunk_seconds,
       coalesce(
           (SELECT min(s.time) FROM system_metrics s WHERE s.time < (SELECT min(c.range_end) FROM chunks c)),
           (SELECT min(c.range_start) FROM chunks c)) AS oldest,
       coalesce((
           SELECT jsonb_agg(jsonb_build_object(
               'id', j.job_id,
               'name', j.proc_name,
               'scheduled', j.scheduled,
               'drop_seconds', extract(epoch FROM (j.config->>'drop_after')::interval),
               'compress_after', j.config->>'compress_after') ORDER BY j.job_id)
           FROM timescaledb_information.jobs j
           WHERE j.hypertable_name IS NOT NULL
             AND to_regclass(format('%I.%I', j.hypertable_schema, j.hypertable_name)) = m.relation), '[]') AS jobs,
       ARRAY(
           SELECT a.view_name::text
           FROM timescaledb_information.continuous_aggregates a
           WHERE to_regclass(format('%I.%I', a.hypertable_schema, a.hypertable_name)) = m.relation
           ORDER BY a.view_name) AS aggregates
FROM metrics m;

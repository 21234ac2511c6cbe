-- The tag tells these samples from those of ops-worker, whose tags are empty.
INSERT INTO system_metrics (time, metric_name, service, tags, value)
SELECT now(), x.metric_name, x.service, '{"writer": "platform-sim"}'::jsonb, x.value
FROM (
    SELECT unnest($1::text[]) AS service, unnest($2::text[]) AS metric_name, unnest($3::float8[]) AS value
    UNION ALL
    SELECT 'postgres', 'connections', count(*) FROM pg_stat_activity WHERE datname = current_database()
    UNION ALL
    SELECT 'postgres', 'db_size_bytes', pg_database_size(current_database())
    UNION ALL
    SELECT 'postgres', 'healthy', 1
) x

INSERT INTO system_metrics (time, metric_name, service, value)
SELECT now(), x.metric_name, x.service, x.value
FROM (SELECT unnest($1::text[]) AS service, unnest($2::text[]) AS metric_name, unnest($3::float8[]) AS value) x
UNION ALL
SELECT now(), 'connections', 'postgres', count(*) FROM pg_stat_activity WHERE datname = current_database()
UNION ALL
SELECT now(), 'db_size_bytes', 'postgres', pg_database_size(current_database())
UNION ALL
SELECT now(), 'healthy', 'postgres', 1

-- What the platform's /operator/system/* routes read, after its contract. A statement is headed by the route and what it
-- reads there; "as pulse_operator" is the role that the route takes on, "if NAME exists" what it looks for first.
-- Doctor plans each of them.

-- route: /health connections
SELECT count(*)::int, (SELECT setting::int FROM pg_settings WHERE name = 'max_connections')
FROM pg_stat_activity WHERE datname = current_database();

-- route: /metrics telemetry as pulse_operator
SELECT count(*) FROM telemetry WHERE time >= now() - interval '60 seconds' AND msg_type = 'telemetry';

-- route: /metrics/history
SELECT time, value FROM system_metrics
WHERE metric_name = 'queue_depth' AND service = 'ingest' AND time > now() - interval '60 minutes' ORDER BY time;

-- route: /metrics/latest
SELECT DISTINCT ON (metric_name, service) metric_name, service, time, value
FROM system_metrics ORDER BY metric_name, service, time DESC;

-- route: dashboards
SELECT l.time, l.metric_name, l.service, l.value, l.tags, r.avg_value, r.max_value, r.min_value, r.sample_count
FROM system_metrics_latest l
JOIN system_metrics_recent r ON r.metric_name = l.metric_name AND r.service IS NOT DISTINCT FROM l.service;

-- route: /capacity size
SELECT pg_database_size(current_database());

-- route: /capacity tables
SELECT relname, pg_total_relation_size(relid) FROM pg_statio_user_tables ORDER BY 2 DESC LIMIT 10;

-- route: /aggregates tenants as pulse_operator
SELECT count(*) FILTER (WHERE status = 'ACTIVE'), count(*) FILTER (WHERE status = 'SUSPENDED'),
       count(*) FILTER (WHERE status = 'DELETED'), count(*)
FROM tenants;

-- route: /aggregates devices as pulse_operator
SELECT count(*), count(*) FILTER (WHERE status = 'ACTIVE'), count(*) FILTER (WHERE status = 'REVOKED'), count(DISTINCT site_id)
FROM device_registry;

-- route: /aggregates device states as pulse_operator
SELECT count(*) FILTER (WHERE status = 'ONLINE'), count(*) FILTER (WHERE status = 'STALE'),
       count(*) FILTER (WHERE status = 'OFFLINE'), max(last_seen_at)
FROM device_state;

-- route: /aggregates alerts as pulse_operator
SELECT count(*) FILTER (WHERE status = 'OPEN'), count(*) FILTER (WHERE status = 'CLOSED'),
       count(*) FILTER (WHERE status = 'ACKNOWLEDGED'),
       count(*) FILTER (WHERE created_at >= now() - interval '24 hours'),
       count(*) FILTER (WHERE created_at >= now() - interval '1 hour'), max(created_at)
FROM fleet_alert;

-- route: /aggregates integrations as pulse_operator
SELECT count(*), count(*) FILTER (WHERE enabled), count(*) FILTER (WHERE type = 'webhook'), count(*) FILTER (WHERE type = 'email')
FROM integrations;

-- route: /aggregates rules as pulse_operator
SELECT count(*), count(*) FILTER (WHERE enabled) FROM alert_rules;

-- route: /aggregates deliveries as pulse_operator
SELECT count(*) FILTER (WHERE status = 'PENDING'), count(*) FILTER (WHERE status = 'COMPLETED'),
       count(*) FILTER (WHERE status = 'FAILED'), count(*) FILTER (WHERE created_at >= now() - interval '24 hours'), max(created_at)
FROM delivery_jobs;

-- route: /errors deliveries as pulse_operator
SELECT job_id, integration_id, attempts, last_error, tenant_id, created_at
FROM delivery_jobs WHERE status = 'FAILED' ORDER BY created_at DESC LIMIT 50;

-- route: /errors stuck as pulse_operator
SELECT count(*) FROM delivery_jobs WHERE status = 'PENDING' AND created_at < now() - interval '5 minutes';

-- route: /errors quarantine as pulse_operator if quarantine_events exists
SELECT ingested_at, tenant_id, device_id, reason, topic FROM quarantine_events ORDER BY ingested_at DESC LIMIT 50;

-- route: /errors audit as pulse_operator
SELECT created_at, tenant_filter, user_id, action, ip_address FROM operator_audit_log ORDER BY created_at DESC LIMIT 50;

-- route: /errors rate limits as pulse_operator if rate_limit_events exists
SELECT created_at, tenant_id, device_id, event_count FROM rate_limit_events ORDER BY created_at DESC LIMIT 50;

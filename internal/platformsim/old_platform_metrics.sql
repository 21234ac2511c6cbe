INSERT INTO system_metrics (time, metric_name, service, tags, value)
SELECT now(), x.metric_name, 'platform', '{"writer": "platform-sim"}'::jsonb, x.value
FROM (
    SELECT 'devices_online' AS metric_name, count(*) AS value FROM device_state WHERE status = 'ONLINE'
    UNION ALL
    SELECT 'devices_stale', count(*) FROM device_state WHERE status = 'STALE'
    UNION ALL
    SELECT 'alerts_open', count(*) FROM fleet_alert WHERE status = 'OPEN'
    UNION ALL
    SELECT 'deliveries_pending', count(*) FROM delivery_jobs WHERE status = 'PENDING'
) x

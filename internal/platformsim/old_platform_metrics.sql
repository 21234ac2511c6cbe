INSERT INTO system_metrics (time, metric_name, service, value)
SELECT now(), 'devices_online', 'platform', count(*) FROM device_state WHERE status = 'ONLINE'
UNION ALL
SELECT now(), 'devices_stale', 'platform', count(*) FROM device_state WHERE status = 'STALE'
UNION ALL
SELECT now(), 'alerts_open', 'platform', count(*) FROM fleet_alert WHERE status = 'OPEN'
UNION ALL
SELECT now(), 'deliveries_pending', 'platform', count(*) FROM delivery_jobs WHERE status = 'PENDING'

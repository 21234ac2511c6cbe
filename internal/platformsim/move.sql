-- About a second in the life of the seeded fleet. Each device's state follows a wave of its own, four minutes long, so
-- that some 70 % are online at any moment and a handful changes at every call.
WITH due AS (
    SELECT tenant_id, device_id,
           CASE WHEN sin(2 * pi() * (extract(epoch FROM now()) / 240 + right(device_id, 4)::int / 17.0)) > -0.6
                THEN 'ONLINE' ELSE 'STALE' END AS status
    FROM device_state
    WHERE device_id LIKE 'demo-%' AND status <> 'OFFLINE'
)
UPDATE device_state
SET status = due.status,
    last_state_change_at = now(),
    last_seen_at = CASE WHEN due.status = 'ONLINE' THEN now() ELSE last_seen_at END
FROM due
WHERE device_state.tenant_id = due.tenant_id
  AND device_state.device_id = due.device_id
  AND device_state.status <> due.status;

-- A tenth of the devices that are online reports.
INSERT INTO telemetry (time, tenant_id, device_id, site_id, seq, metrics)
SELECT now(), tenant_id, device_id, site_id, extract(epoch FROM now())::bigint,
       jsonb_build_object('temp_c', 18 + right(device_id, 1)::int)
FROM device_state
WHERE status = 'ONLINE' AND device_id LIKE 'demo-%'
  AND right(device_id, 4)::int % 10 = extract(epoch FROM now())::bigint % 10;

-- Of the deliveries one is queued at every other call, and those that have waited for some seconds are done.
INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, payload_json)
SELECT 'demo-acme', min(id), '00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-0000000000ff', 'OPEN',
       '{"demo": true}'
FROM fleet_alert
WHERE tenant_id = 'demo-acme' AND extract(epoch FROM now())::bigint % 2 = 0
HAVING min(id) IS NOT NULL;

UPDATE delivery_jobs
SET status = 'COMPLETED', attempts = attempts + 1, updated_at = now()
WHERE status = 'PENDING' AND payload_json @> '{"demo": true}' AND created_at < now() - interval '12 seconds';

DELETE FROM telemetry
WHERE device_id LIKE 'demo-%' AND time < now() - interval '10 minutes';

DELETE FROM delivery_jobs
WHERE status = 'COMPLETED' AND payload_json @> '{"demo": true}' AND created_at < now() - interval '1 hour';

-- name: OpenSystemAlerts :many
-- The system alerts that are open, acknowledged ones included, the oldest first,
-- and how many there are.
-- A newer schema's partial index holds them; an older one's holds the open ones
-- alone, and the acknowledged cost a scan of fleet_alert. Monitored marks those that the
-- health monitor opens and closes.
-- Caller: status and doctor.
SELECT CASE WHEN fingerprint LIKE 'system-health:%' THEN substr(fingerprint, 15) ELSE fingerprint END::text AS service,
       (fingerprint LIKE 'system-health:%')::boolean AS monitored,
       status, left(coalesce(summary, ''), 500)::text AS summary, created_at,
       (count(*) OVER ())::bigint AS open, clock_timestamp()::timestamptz AS now
FROM fleet_alert
WHERE tenant_id = '__system__'
  AND status IN ('OPEN', 'ACKNOWLEDGED')
ORDER BY created_at, id
LIMIT 100;

-- name: SyncSystemAlerts :one
-- Opens an alert for each unhealthy service that has none and closes those of
-- the healthy ones, in one statement; repeating it changes nothing. An
-- acknowledged alert is still its service's open alert.
-- The platform's unique index covers OPEN on older schemas, and OPEN and
-- ACKNOWLEDGED on newer ones. ON CONFLICT names no index, so that either decides.
-- Open alerts are found by that index. On an older schema acknowledged ones are
-- found by a scan, so the statement looks for them in two cases alone: when a
-- service is unhealthy without an open alert, and when acknowledged says that a
-- service has changed.
-- Caller: the health monitor, every HEALTH_CHECK_INTERVAL.
WITH observed AS (
    SELECT x.service, 'system-health:' || x.service AS fingerprint, x.healthy, x.reason
    FROM (
        SELECT unnest(@services::text[]) AS service,
               unnest(@healthy::boolean[]) AS healthy,
               unnest(@reasons::text[]) AS reason
    ) x
), missing AS (
    SELECT o.service, o.fingerprint, o.reason
    FROM observed o
    WHERE NOT o.healthy
      AND NOT EXISTS (
          SELECT FROM fleet_alert a
          WHERE a.tenant_id = '__system__' AND a.fingerprint = o.fingerprint AND a.status = 'OPEN')
      AND NOT EXISTS (
          SELECT FROM fleet_alert a
          WHERE a.tenant_id = '__system__' AND a.fingerprint = o.fingerprint AND a.status = 'ACKNOWLEDGED')
), system_tenant AS (
    INSERT INTO tenants (tenant_id, name, metadata)
    SELECT '__system__', 'System Alerts', '{"kind": "system"}'
    WHERE EXISTS (SELECT FROM missing)
    ON CONFLICT DO NOTHING
), opened AS (
    INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, severity, confidence, summary, details)
    SELECT '__system__', '__system__', '__system__', 'SYSTEM_HEALTH', m.fingerprint, 5, 1.0,
           'Service unhealthy: ' || m.service || ' (' || m.reason || ')',
           jsonb_build_object('service', m.service, 'kind', 'system_health')
    FROM missing m
    ON CONFLICT DO NOTHING
    RETURNING fingerprint
), closed AS (
    UPDATE fleet_alert a
    SET status = 'CLOSED',
        closed_at = now(),
        details = coalesce(a.details, '{}') || jsonb_build_object('resolved_at', now())
    FROM observed o
    WHERE o.healthy
      AND a.tenant_id = '__system__'
      AND a.fingerprint = o.fingerprint
      AND (a.status = 'OPEN' OR (@acknowledged::boolean AND a.status = 'ACKNOWLEDGED'))
    RETURNING a.fingerprint
)
SELECT coalesce((SELECT array_agg(substr(fingerprint, 15)) FROM opened), '{}')::text[] AS opened,
       coalesce((SELECT array_agg(substr(fingerprint, 15)) FROM closed), '{}')::text[] AS closed;

-- name: OpenSystemAlerts :many
-- The system alerts that are open, acknowledged ones included, the monitor's own before
-- any other and the oldest first, and how many there are.
-- A newer schema's partial index holds them; an older one's holds the open ones
-- alone, and the acknowledged cost a scan of fleet_alert. Monitored marks those that the
-- health monitor opens and closes.
-- Caller: the health monitor, every HEALTH_CHECK_INTERVAL, status and doctor.
SELECT CASE WHEN fingerprint LIKE 'system-health:%' THEN substr(fingerprint, 15) ELSE fingerprint END::text AS service,
       (fingerprint LIKE 'system-health:%')::boolean AS monitored,
       status, left(coalesce(summary, ''), 500)::text AS summary,
       left(coalesce(details ->> 'status', ''), 20)::text AS health,
       left(coalesce(details ->> 'reason', substring(summary FROM '\((.*)\)$'), ''), 500)::text AS reason, created_at,
       (count(*) OVER ())::bigint AS open, clock_timestamp()::timestamptz AS now
FROM fleet_alert
WHERE tenant_id = '__system__'
  AND status IN ('OPEN', 'ACKNOWLEDGED')
ORDER BY fingerprint LIKE 'system-health:%' DESC, created_at, id
LIMIT 1000;

-- name: CloseSystemAlert :one
-- Closes a service's alert, which its opening time names: another leader may have opened
-- a later one, which lasts. Where there is none, since the database was away when this one
-- opened, it adds a closed one, unless another of the service overlaps its span.
-- Repeating it changes nothing. Returns the opening time of the alert that it has
-- written, the epoch for none.
-- Cost: the service's open alert by an index; its closed ones by (tenant_id, status).
-- Caller: the health monitor, once for each alert.
WITH incident AS (
    SELECT @fingerprint::text AS fingerprint, @opened_at::timestamptz AS opened_at, @closed_at::timestamptz AS closed_at,
           @summary::text AS summary, (@details::text)::jsonb AS details
), closed AS (
    UPDATE fleet_alert a
    SET status = 'CLOSED',
        closed_at = i.closed_at,
        details = coalesce(a.details, '{}') || jsonb_build_object('resolved_at', i.closed_at,
            'duration_seconds', round(extract(epoch FROM i.closed_at - a.created_at), 3))
    FROM incident i
    WHERE a.tenant_id = '__system__'
      AND a.fingerprint = i.fingerprint
      AND a.status IN ('OPEN', 'ACKNOWLEDGED')
      AND a.created_at = i.opened_at
    RETURNING a.created_at
), missing AS (
    SELECT i.*
    FROM incident i
    WHERE NOT EXISTS (SELECT FROM closed)
      AND NOT EXISTS (
          SELECT FROM fleet_alert a
          WHERE a.tenant_id = '__system__' AND a.fingerprint = i.fingerprint
            AND (a.created_at = i.opened_at OR a.created_at < i.closed_at AND coalesce(a.closed_at, 'infinity') > i.opened_at))
), system_tenant AS (
    INSERT INTO tenants (tenant_id, name, metadata)
    SELECT '__system__', 'System Alerts', '{"kind": "system"}'
    WHERE EXISTS (SELECT FROM missing)
    ON CONFLICT DO NOTHING
), added AS (
    INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, severity, confidence, summary, details, created_at, closed_at)
    SELECT '__system__', '__system__', '__system__', 'SYSTEM_HEALTH', m.fingerprint, 'CLOSED', 5, 1.0, m.summary,
           m.details || jsonb_build_object('resolved_at', m.closed_at, 'duration_seconds', round(extract(epoch FROM m.closed_at - m.opened_at), 3)),
           m.opened_at, m.closed_at
    FROM missing m
    RETURNING created_at
)
SELECT coalesce((SELECT max(created_at) FROM closed), (SELECT max(created_at) FROM added), 'epoch')::timestamptz AS opened_at;

-- name: TrackMessages :exec
-- From here on somebody is to be told of these alerts. Caller: the health monitor, every
-- HEALTH_CHECK_INTERVAL, with the alerts that are open.
INSERT INTO ops_worker_message (fingerprint, opened_at)
SELECT unnest(@fingerprints::text[]), unnest(@opened_ats::timestamptz[])
ON CONFLICT DO NOTHING;

-- name: DueMessages :many
-- The alerts of which somebody is to be told: that they have opened, that they are over. One
-- that somebody has removed is over now. Each of some rows costs a look by the index on
-- created_at. In the platform's scope.
-- Caller: the health monitor, every HEALTH_CHECK_INTERVAL, while somebody is to be told.
SELECT m.fingerprint, m.opened_at,
       (a.id IS NOT NULL AND NOT m.opening_told)::boolean AS opening,
       (a.id IS NULL OR a.status = 'CLOSED')::boolean AS closing,
       (CASE WHEN a.id IS NULL THEN clock_timestamp() ELSE coalesce(a.closed_at, a.created_at) END)::timestamptz AS closed_at,
       coalesce(a.details ->> 'status', '')::text AS health,
       coalesce(a.details ->> 'reason', substring(a.summary FROM '\((.*)\)$'), '')::text AS reason
FROM ops_worker_message m
LEFT JOIN fleet_alert a ON a.tenant_id = '__system__' AND a.fingerprint = m.fingerprint AND a.created_at = m.opened_at
ORDER BY m.opened_at, m.fingerprint
LIMIT 1000;

-- name: MarkTold :exec
-- That somebody has been told of these openings and closings. By primary key. Caller:
-- the health monitor.
WITH told AS (
    SELECT unnest(@fingerprints::text[]) AS fingerprint,
           unnest(@opened_ats::timestamptz[]) AS opened_at,
           unnest(@closings::boolean[]) AS closing
), over AS (
    DELETE FROM ops_worker_message m
    USING told t
    WHERE t.closing AND m.fingerprint = t.fingerprint AND m.opened_at = t.opened_at
)
UPDATE ops_worker_message m
SET opening_told = true
FROM told t
WHERE NOT t.closing
  AND m.fingerprint = t.fingerprint AND m.opened_at = t.opened_at
  AND NOT EXISTS (SELECT FROM told c WHERE c.closing AND c.fingerprint = t.fingerprint AND c.opened_at = t.opened_at);

-- name: OpenSystemAlert :execrows
-- Opens a service's alert, unless one is open; repeating it changes nothing. An
-- acknowledged alert is still its service's open alert. One that opens again, after
-- somebody has closed it, opens now.
-- The platform's unique index covers OPEN on older schemas, and OPEN and
-- ACKNOWLEDGED on newer ones. ON CONFLICT names no index, so that either decides.
-- By these indexes, or by (tenant_id, status).
-- Caller: the health monitor, for each unhealthy service, every HEALTH_CHECK_INTERVAL.
WITH missing AS (
    SELECT @fingerprint::text AS fingerprint, @opened_at::timestamptz AS opened_at, @summary::text AS summary, (@details::text)::jsonb AS details
    WHERE NOT EXISTS (
        SELECT FROM fleet_alert a
        WHERE a.tenant_id = '__system__' AND a.fingerprint = @fingerprint::text AND a.status = 'OPEN')
      AND NOT EXISTS (
        SELECT FROM fleet_alert a
        WHERE a.tenant_id = '__system__' AND a.fingerprint = @fingerprint::text AND a.status = 'ACKNOWLEDGED')
), system_tenant AS (
    INSERT INTO tenants (tenant_id, name, metadata)
    SELECT '__system__', 'System Alerts', '{"kind": "system"}'
    WHERE EXISTS (SELECT FROM missing)
    ON CONFLICT DO NOTHING
)
INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, severity, confidence, summary, details, created_at)
SELECT '__system__', '__system__', '__system__', 'SYSTEM_HEALTH', m.fingerprint, 5, 1.0, m.summary, m.details,
       CASE WHEN EXISTS (
           SELECT FROM fleet_alert a
           WHERE a.tenant_id = '__system__' AND a.fingerprint = m.fingerprint AND a.created_at = m.opened_at)
       THEN now() ELSE m.opened_at END
FROM missing m
ON CONFLICT DO NOTHING;

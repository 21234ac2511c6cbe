-- Maintenance windows of system alerts: rows of the tenant __system__ in a table that
-- only newer releases of the platform have. All of it runs after EnterPlatformScope.

-- name: MaintenanceTableStands :one
-- Whether this release has the table: a statement that names a missing table would
-- abort the caller's transaction. It reads the catalogue's cache.
-- Caller: before each of the queries below, in the same transaction.
SELECT (to_regclass('public.alert_maintenance_windows') IS NOT NULL)::boolean AS stands;

-- name: MaintenanceWindows :many
-- The windows that are enabled, and not over or only since a day: a worker that starts
-- after one must know that what is ill since then was planned. A window with sites is about devices, so
-- it is not ours. One odd row must not cost the others, so no value is null, infinite
-- or of a year that JSON has no digits for: year 1, which is Go's zero time, is a window
-- since ever or with an open end.
-- By the primary key, or a scan of the table, which has a few rows a tenant.
-- Caller: the health monitor, every HEALTH_CHECK_INTERVAL; `maintenance list` and `end`; status.
SELECT window_id,
       coalesce(name, '')::text AS name,
       greatest(starts_at, '0001-01-01 00:00:00Z')::timestamptz AS starts_at,
       (CASE WHEN ends_at < '9999-12-31Z' THEN ends_at ELSE '0001-01-01 00:00:00Z' END)::timestamptz AS ends_at,
       recurring,
       array_replace(coalesce(device_types, '{}'), NULL, '')::text[] AS services
FROM alert_maintenance_windows
WHERE tenant_id = '__system__'
  AND enabled
  AND starts_at < '9999-12-31Z'
  AND (ends_at IS NULL OR ends_at > clock_timestamp() - interval '1 day')
  AND coalesce(cardinality(site_ids), 0) = 0
ORDER BY starts_at, window_id;

-- name: StartMaintenanceWindow :one
-- Makes a window from now on, and its tenant if nothing has made that yet. No services
-- are all of them. A repetition makes a second window, so nothing repeats it.
-- Caller: `maintenance start`, by hand. One row by the primary key.
WITH system_tenant AS (
    INSERT INTO tenants (tenant_id, name, metadata)
    VALUES ('__system__', 'System Alerts', '{"kind": "system"}')
    ON CONFLICT DO NOTHING
)
INSERT INTO alert_maintenance_windows (tenant_id, name, starts_at, ends_at, device_types)
VALUES ('__system__', @name::text, now(), now() + make_interval(secs => @seconds::float8), nullif(@services::text[], '{}'))
RETURNING window_id, starts_at, ends_at::timestamptz AS ends_at;

-- name: EndMaintenanceWindow :exec
-- Ends a window now, or switches it off: a weekly window has no end of its own, and one
-- that has not begun cannot end.
-- Caller: `maintenance end`, by hand, for each window. One row by the primary key.
UPDATE alert_maintenance_windows
SET ends_at = CASE WHEN @switch_off::boolean THEN ends_at ELSE clock_timestamp() END,
    enabled = NOT @switch_off::boolean
WHERE tenant_id = '__system__' AND window_id = @window_id::text;

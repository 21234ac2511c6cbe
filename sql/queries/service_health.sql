-- name: UpsertServiceHealth :execrows
-- All services of a health cycle in one statement, by primary key. A latency of
-- -1 stands for NULL. Caller: the health monitor, every HEALTH_CHECK_INTERVAL.
INSERT INTO service_health (service, status, latency_ms, details, checked_at)
SELECT x.service, x.status, nullif(x.latency_ms, -1), x.details::jsonb, @checked_at::timestamptz
FROM (
    SELECT unnest(@services::text[]) AS service,
           unnest(@statuses::text[]) AS status,
           unnest(@latencies_ms::integer[]) AS latency_ms,
           unnest(@details::text[]) AS details
) x
ON CONFLICT (service) DO UPDATE
SET status = EXCLUDED.status,
    latency_ms = EXCLUDED.latency_ms,
    details = EXCLUDED.details,
    checked_at = EXCLUDED.checked_at;

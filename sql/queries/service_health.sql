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

-- name: CountChecks :many
-- Counts a health cycle's checks into the streaks, by primary key: one that finds
-- what the one before found makes a streak longer, any other begins one, and so
-- does one that nobody has made for a day. A cycle that is sent again counts once.
-- Returns the streaks' lengths.
-- Caller: the health monitor, every HEALTH_CHECK_INTERVAL.
INSERT INTO ops_worker_streak AS s (service, healthy, since, checks, checked_at)
SELECT x.service, x.healthy, @checked_at::timestamptz, 1, @checked_at::timestamptz
FROM (
    SELECT unnest(@services::text[]) AS service,
           unnest(@healthy::boolean[]) AS healthy
) x
ON CONFLICT (service) DO UPDATE
SET healthy = EXCLUDED.healthy,
    since = CASE WHEN s.healthy = EXCLUDED.healthy AND EXCLUDED.checked_at < s.checked_at + interval '1 day' THEN s.since
                 ELSE EXCLUDED.since END,
    checks = CASE WHEN s.checked_at = EXCLUDED.checked_at THEN s.checks
                  WHEN s.healthy = EXCLUDED.healthy AND EXCLUDED.checked_at < s.checked_at + interval '1 day' THEN s.checks + 1
                  ELSE 1 END,
    checked_at = EXCLUDED.checked_at
RETURNING s.service, s.checks;

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

-- name: ReadStreaks :many
-- The streaks that somebody has added to within a day: an older one is over. A row a
-- service. Caller: the health monitor, at the first check of a term.
SELECT service, healthy, since, checks, checked_at
FROM ops_worker_streak
WHERE checked_at > clock_timestamp() - interval '1 day';

-- name: SaveStreaks :exec
-- How many checks in a row have found the same, and since when, by primary key.
-- Caller: the health monitor, every HEALTH_CHECK_INTERVAL.
INSERT INTO ops_worker_streak (service, healthy, since, checks, checked_at)
SELECT x.service, x.healthy, x.since, x.checks, @checked_at::timestamptz
FROM (
    SELECT unnest(@services::text[]) AS service,
           unnest(@healthy::boolean[]) AS healthy,
           unnest(@since::timestamptz[]) AS since,
           unnest(@checks::integer[]) AS checks
) x
ON CONFLICT (service) DO UPDATE
SET healthy = EXCLUDED.healthy,
    since = EXCLUDED.since,
    checks = EXCLUDED.checks,
    checked_at = EXCLUDED.checked_at;

-- name: NoteWatch :exec
-- That the services have been watched from began_at to checked_at without a break: a
-- span that ended no longer than tolerance_seconds before goes on, else another begins.
-- By primary key; a service has few. Caller: the health monitor, every HEALTH_CHECK_INTERVAL, while it opens alerts.
WITH checked AS (
    SELECT unnest(@services::text[]) AS service, @began_at::timestamptz AS began_at, @checked_at::timestamptz AS checked_at,
           make_interval(secs => @tolerance_seconds::float8) AS tolerance
)
INSERT INTO ops_worker_watch AS w (service, began_at, ended_at)
SELECT c.service,
       coalesce((
           SELECT max(s.began_at) FROM ops_worker_watch s
           WHERE s.service = c.service AND s.began_at <= c.checked_at AND s.ended_at >= c.began_at - c.tolerance), c.began_at),
       c.checked_at
FROM checked c
ON CONFLICT (service, began_at) DO UPDATE
SET ended_at = greatest(w.ended_at, EXCLUDED.ended_at);

-- name: ForgetWatch :exec
-- Removes the spans of which nobody asks any more. Caller: the health monitor, at the
-- first check of a term.
DELETE FROM ops_worker_watch
WHERE ended_at < clock_timestamp() - interval '40 days';

-- name: AppendSamples :one
-- Appends the samples of one or more cycles, and with them moves the lease's
-- last_cycle_at and renews it, all in one statement and behind the same fence as
-- HoldLease: no row means that the lease is lost and nothing was written.
-- Cycles up to last_cycle_at stand already and are passed over, so a store whose
-- outcome is unknown may be repeated; one that is still in flight is waited for.
-- With recheck each sample is looked for as well, by (metric_name, time): so a
-- repetition adds nothing even where a clock that jumped has spoilt last_cycle_at.
-- A last_cycle_at of further ahead than future_seconds was written by a clock that
-- was wrong, and counts for nothing.
-- Returns how many samples were new, and the database's clock.
-- Caller: the metrics collector, every METRICS_COLLECTION_INTERVAL.
WITH held AS (
    SELECT CASE WHEN l.last_cycle_at <= clock_timestamp() + make_interval(secs => @future_seconds::float8)
                THEN l.last_cycle_at ELSE 'epoch' END AS newest
    FROM ops_worker_lease l
    WHERE l.name = @lease_name AND l.holder = @holder AND l.epoch = @epoch AND l.expires_at > clock_timestamp()
    FOR NO KEY UPDATE
), stored AS (
    INSERT INTO system_metrics (time, metric_name, service, tags, value)
    SELECT x.time, x.metric_name, nullif(x.service, ''), x.tags::jsonb, x.value
    FROM (
        SELECT unnest(@times::timestamptz[]) AS time,
               unnest(@metric_names::text[]) AS metric_name,
               unnest(@services::text[]) AS service,
               unnest(@tags::text[]) AS tags,
               unnest(@values::float8[]) AS value
    ) x
    CROSS JOIN held
    WHERE x.time > held.newest
      AND (NOT @recheck::boolean OR NOT EXISTS (
          SELECT FROM system_metrics m
          WHERE m.metric_name = x.metric_name AND m.time = x.time AND coalesce(m.service, '') = x.service))
    RETURNING 1
), moved AS (
    UPDATE ops_worker_lease l
    SET last_cycle_at = greatest(held.newest, @cycle_at::timestamptz),
        expires_at = clock_timestamp() + make_interval(secs => @ttl_seconds::float8)
    FROM held
    WHERE l.name = @lease_name
)
SELECT (SELECT count(*) FROM stored)::bigint AS samples, clock_timestamp()::timestamptz AS now
FROM held;

-- name: DeleteExpiredSamples :execrows
-- One small batch of what a plain table has kept past its retention. No index
-- starts with time, so it goes name by name through (metric_name, time), and takes
-- at most batch_size rows.
-- Caller: the metrics collector's retention, hourly, until a batch is short.
WITH expired AS (
    SELECT n.metric_name, e.time
    FROM ops_worker_series n
    CROSS JOIN LATERAL (
        SELECT m.time
        FROM system_metrics m
        WHERE m.metric_name = n.metric_name AND m.time < @cutoff::timestamptz
        ORDER BY m.time DESC
        LIMIT @batch_size::integer
    ) e
    LIMIT @batch_size::integer
)
DELETE FROM system_metrics d
USING (SELECT DISTINCT metric_name, time FROM expired) e
WHERE d.metric_name = e.metric_name AND d.time = e.time;

-- name: NewestValues :many
-- The newest value of each of the given series, a step each through (metric_name,
-- service, time); a series without a sample has no row. What lies further ahead
-- than future_seconds was stamped by a clock that was wrong, and is passed over.
-- Caller: the metrics collector, at the start of each term.
SELECT w.metric_name::text AS metric_name, w.service::text AS service, n.value::float8 AS value
FROM (
    SELECT unnest(@metric_names::text[]) AS metric_name,
           unnest(@services::text[]) AS service
) w
CROSS JOIN LATERAL (
    SELECT m.value
    FROM system_metrics m
    WHERE m.metric_name = w.metric_name
      AND m.service = w.service
      AND m.time <= clock_timestamp() + make_interval(secs => @future_seconds::float8)
    ORDER BY m.time DESC
    LIMIT 1
) n;

-- What `ops-worker status` asks, once, or with --watch every few seconds while
-- somebody looks on. Every query runs in a read-only transaction of its own with
-- a statement time-out, needs no right but SELECT, and works on a hot standby;
-- one that fails costs its own section.

-- name: StatusReplay :one
-- The newest transaction that a standby has replayed; the epoch where it has replayed
-- none. No table is read. Some managed servers refuse the function.
SELECT coalesce(pg_last_xact_replay_timestamp(), 'epoch')::timestamptz AS replayed_at;

-- name: StatusSeries :many
-- Every series, whatever its tags, with its newest value and its last buckets of bucket_seconds, the
-- newest of which the clock stands in: per bucket the average, and the growth a
-- second between neighbouring points, where a fall is a restart and the newer
-- value is what has grown. Of an empty bucket there is no element, and NaN is no
-- growth, as a first point has none. A name without a sample in that time has its
-- newest alone.
-- Of each name one step and one range of (metric_name,
-- time), bounded, which also keeps the planner from hashing the whole table. So the
-- cost is that of the points in the window, however many are older: an hour of 15
-- series every 5 s, 10,800 points, took 29 ms alone and 35 ms in a week of 1.8
-- million rows (PostgreSQL 15, EXPLAIN ANALYZE, two cores).
WITH span AS (
    SELECT floor(date_part('epoch', clock_timestamp()) / (@bucket_seconds::float8)) - (@buckets::integer) + 1 AS begin_bucket
), points AS (
    SELECT n.metric_name, coalesce(p.service, '') AS service, p.time, p.value,
           (floor(date_part('epoch', p.time) / (@bucket_seconds::float8)) - span.begin_bucket)::bigint AS bucket,
           p.value - lag(p.value) OVER series AS growth,
           date_part('epoch', p.time - lag(p.time) OVER series) AS seconds
    FROM ops_worker_series n
    CROSS JOIN span
    CROSS JOIN LATERAL (
        SELECT m.time
        FROM system_metrics m
        WHERE m.metric_name = n.metric_name
        ORDER BY m.time DESC
        LIMIT 1
    ) newest
    CROSS JOIN LATERAL (
        SELECT m.service, m.time, m.value
        FROM system_metrics m
        WHERE m.metric_name = n.metric_name
          AND m.time >= least(newest.time, to_timestamp(span.begin_bucket * (@bucket_seconds::float8)))
        ORDER BY m.time DESC
        LIMIT 100000
    ) p
    WINDOW series AS (PARTITION BY n.metric_name, p.service ORDER BY p.time)
), buckets AS (
    SELECT b.metric_name, b.service, b.bucket, max(b.time) AS newest,
           avg(b.value) AS average,
           coalesce(sum(CASE WHEN b.growth < 0 THEN b.value ELSE b.growth END) / nullif(sum(b.seconds), 0), 'NaN') AS rate,
           (array_agg(b.value ORDER BY b.time DESC))[1] AS value,
           (array_agg(CASE WHEN b.growth < 0 THEN b.value ELSE b.growth END / nullif(b.seconds, 0) ORDER BY b.time DESC))[1] AS value_rate
    FROM points b
    GROUP BY b.metric_name, b.service, b.bucket
)
SELECT s.service::text AS service, s.metric_name::text AS metric_name, max(s.newest)::timestamptz AS newest,
       ((array_agg(s.value ORDER BY s.bucket DESC))[1])::float8 AS value,
       coalesce((array_agg(s.value_rate ORDER BY s.bucket DESC))[1], 'NaN')::float8 AS rate,
       array_agg(s.bucket ORDER BY s.bucket)::bigint[] AS buckets,
       array_agg(s.average ORDER BY s.bucket)::float8[] AS averages,
       array_agg(s.rate ORDER BY s.bucket)::float8[] AS rates
FROM buckets s
GROUP BY s.service, s.metric_name
ORDER BY s.service, s.metric_name;

-- name: StatusServer :one
-- The server and its clock. No table is read.
SELECT current_database()::text AS database,
       current_setting('server_version')::text AS version,
       current_user::text AS login_role,
       pg_is_in_recovery()::boolean AS standby,
       clock_timestamp()::timestamptz AS now;

-- name: StatusServices :many
-- service_health whole: a row a service, those that are not healthy first. A service
-- writes into details what it likes, so of each text no more is read than can be shown.
SELECT service, status, coalesce(latency_ms, -1)::integer AS latency_ms,
       left(coalesce(details ->> 'status', ''), 20)::text AS state,
       left(coalesce(details ->> 'http_status', ''), 20)::text AS http_status,
       left(coalesce(details ->> 'error', ''), 500)::text AS error,
       left(coalesce(details ->> 'certificate_ends', ''), 40)::text AS certificate_ends,
       checked_at
FROM service_health
ORDER BY status = 'healthy', service;

-- name: StatusStreaks :many
-- ops_worker_streak whole: a row a service.
SELECT service, healthy, checks, since, checked_at
FROM ops_worker_streak;

-- name: StatusAvailability :many
-- Of each service the newest incident, and over a day, 7 and 30 days for how many
-- seconds it was watched, and was ill while it was. It reads the system alerts of every
-- age by (tenant_id, status), and is not asked at each turn of --watch.
WITH moment AS (
    SELECT clock_timestamp() AS now
), span AS (
    SELECT x.days, tstzmultirange(tstzrange(moment.now - make_interval(days => x.days), moment.now)) AS span
    FROM moment, (SELECT unnest(ARRAY[1, 7, 30]) AS days) x
), incident AS (
    SELECT i.service, i.started_at, i.ended_at, i.reason
    FROM ops_worker_incidents i
), watched AS (
    SELECT w.service, range_agg(tstzrange(w.began_at, w.ended_at)) AS spans
    FROM ops_worker_watch w
    WHERE w.ended_at >= w.began_at
    GROUP BY w.service
), ill AS (
    SELECT i.service, range_agg(tstzrange(i.started_at, coalesce(i.ended_at, moment.now))) AS spans
    FROM incident i, moment
    WHERE i.started_at <= coalesce(i.ended_at, moment.now)
    GROUP BY i.service
), newest AS (
    SELECT DISTINCT ON (i.service) i.service, i.started_at, i.ended_at, i.reason
    FROM incident i
    ORDER BY i.service, i.started_at DESC
)
SELECT h.service, span.days::integer AS days,
       coalesce((SELECT sum(extract(epoch FROM upper(r) - lower(r))) FROM unnest(watched.spans * span.span) r), 0)::float8 AS watched_seconds,
       coalesce((SELECT sum(extract(epoch FROM upper(r) - lower(r))) FROM unnest(watched.spans * span.span * ill.spans) r), 0)::float8 AS ill_seconds,
       coalesce(newest.started_at, 'epoch')::timestamptz AS started_at,
       coalesce(newest.ended_at, 'epoch')::timestamptz AS ended_at,
       left(coalesce(newest.reason, ''), 500)::text AS reason
FROM service_health h
CROSS JOIN span
LEFT JOIN watched ON watched.service = h.service
LEFT JOIN ill ON ill.service = h.service
LEFT JOIN newest ON newest.service = h.service
ORDER BY h.service, span.days;

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

-- name: StatusWatched :many
-- ops_worker_watch whole: some rows a service. Before StatusAvailability.
SELECT service, began_at, ended_at
FROM ops_worker_watch
WHERE began_at <= ended_at;

-- name: StatusAvailability :many
-- Of each service the newest incident, and for how much of a day, of 7 and of 30 days it
-- was well, in percent of the time in which it was watched, by the spans of
-- StatusWatched; NaN if that is less than watched_share of the days.
-- It runs after EnterPlatformScope, and calls the function behind ops_worker_incidents,
-- because that role may have no right to the worker's own tables and views. It reads the
-- system alerts of every age by (tenant_id, status), so --watch asks it once a minute: of
-- 4,000 among a million alerts, and 400 spans, it took 22 ms (PostgreSQL 15, two cores).
WITH moment AS (
    SELECT clock_timestamp() AS now
), incident AS (
    SELECT i.service, i.started_at, i.ended_at, i.reason
    FROM ops_worker_list_incidents() AS i (service, started_at, ended_at, duration, reason, acknowledged)
), watched AS (
    SELECT x.service, range_agg(tstzrange(x.began_at, x.ended_at)) AS spans
    FROM (
        SELECT unnest(@services::text[]) AS service,
               unnest(@began_ats::timestamptz[]) AS began_at,
               unnest(@ended_ats::timestamptz[]) AS ended_at
    ) x
    GROUP BY x.service
), ill AS (
    SELECT i.service, range_agg(tstzrange(i.started_at, coalesce(i.ended_at, moment.now))) AS spans
    FROM incident i, moment
    WHERE i.started_at <= coalesce(i.ended_at, moment.now)
    GROUP BY i.service
), seconds AS (
    SELECT w.service, d.days,
           (SELECT sum(extract(epoch FROM upper(r) - lower(r))) FROM unnest(w.spans * d.span) r)::float8 AS watched,
           (SELECT sum(extract(epoch FROM upper(r) - lower(r))) FROM unnest(w.spans * d.span * ill.spans) r)::float8 AS ill
    FROM watched w
    LEFT JOIN ill ON ill.service = w.service
    CROSS JOIN (
        SELECT x.days, tstzmultirange(tstzrange(moment.now - make_interval(days => x.days), moment.now)) AS span
        FROM moment, (SELECT unnest(ARRAY[1, 7, 30]) AS days) x
    ) d
), share AS (
    SELECT s.service, s.days, 100 * (1 - coalesce(s.ill, 0) / s.watched) AS percent
    FROM seconds s
    WHERE s.watched >= s.days * 86400 * (@watched_share::float8)
), newest AS (
    SELECT DISTINCT ON (i.service) i.service, i.started_at, i.ended_at, i.reason
    FROM incident i
    ORDER BY i.service, i.started_at DESC
)
SELECT name.service::text AS service,
       coalesce((SELECT s.percent FROM share s WHERE s.service = name.service AND s.days = 1), 'NaN')::float8 AS percent_24h,
       coalesce((SELECT s.percent FROM share s WHERE s.service = name.service AND s.days = 7), 'NaN')::float8 AS percent_7d,
       coalesce((SELECT s.percent FROM share s WHERE s.service = name.service AND s.days = 30), 'NaN')::float8 AS percent_30d,
       coalesce(newest.started_at, 'epoch')::timestamptz AS started_at,
       coalesce(newest.ended_at, 'epoch')::timestamptz AS ended_at,
       left(coalesce(newest.reason, ''), 500)::text AS reason
FROM (SELECT w.service FROM watched w UNION SELECT n.service FROM newest n) name
LEFT JOIN newest ON newest.service = name.service
ORDER BY name.service;

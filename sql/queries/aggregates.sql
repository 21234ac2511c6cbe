-- The aggregates of a metrics cycle. Each returns samples (metric_name, service,
-- tags, value), and Go stores whatever comes: a new metric of a table that is
-- read already is one line here and `make generate`.
--
-- Caller: the metrics collector, as often as the table of aggregates says, those
-- that are due in one batch, and less often what takes long. One query a table, so
-- that a missing table costs its own samples; one pass over it, however many
-- numbers.

-- name: AlertSamples :many
-- The open alerts alone, which the platform's partial unique index holds, however
-- many closed ones there are; without it, a scan of fleet_alert.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT count(*) AS open
    FROM fleet_alert
    WHERE status = 'OPEN'
) a
CROSS JOIN LATERAL (VALUES
    ('alerts_open', 'platform', '{}', a.open)
) AS s (metric_name, service, tags, value);

-- name: DatabaseSamples :many
-- The statistics collector's view of this database: no table is read. connections
-- counts backends as pg_stat_activity lists them.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT numbackends AS connections
    FROM pg_catalog.pg_stat_database
    WHERE datname = current_database()
) d
CROSS JOIN LATERAL (VALUES
    ('connections', 'postgres', '{}', d.connections)
) AS s (metric_name, service, tags, value);

-- name: DeliverySamples :many
-- The pending jobs of delivery_jobs, or of the view that stands in for it: a scan
-- unless the platform has an index on status.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT count(*) AS pending
    FROM delivery_jobs
    WHERE status = 'PENDING'
) j
CROSS JOIN LATERAL (VALUES
    ('deliveries_pending', 'platform', '{}', j.pending)
) AS s (metric_name, service, tags, value);

-- name: DeviceSamples :many
-- One pass over device_state, the largest table here, however many numbers: a
-- scan of the whole fleet, since every device is in some state.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT count(*) FILTER (WHERE status = 'ONLINE') AS online,
           count(*) FILTER (WHERE status = 'STALE') AS stale
    FROM device_state
) d
CROSS JOIN LATERAL (VALUES
    ('devices_online', 'platform', '{}', d.online),
    ('devices_stale', 'platform', '{}', d.stale)
) AS s (metric_name, service, tags, value);

-- name: SizeSamples :many
-- The size of this database's files: the server asks the system for that of each
-- file, so that thousands of chunks or partitions take their time.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT pg_database_size(current_database()) AS size
) d
CROSS JOIN LATERAL (VALUES
    ('db_size_bytes', 'postgres', '{}', d.size)
) AS s (metric_name, service, tags, value);

-- name: StandbySamples :many
-- How far behind its primary a hot standby is: nothing where it receives and all that
-- has arrived is applied, and else the age of the newest transaction that is. No row
-- elsewhere.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT CASE
               WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) THEN 0
               ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
           END AS lag
    WHERE pg_is_in_recovery()
) d
CROSS JOIN LATERAL (VALUES
    ('standby_lag_seconds', 'postgres', '{}', d.lag)
) AS s (metric_name, service, tags, value)
WHERE s.value IS NOT NULL;

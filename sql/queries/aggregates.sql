-- The aggregates of a metrics cycle. Each returns samples (metric_name, service,
-- tags, value), and Go stores whatever comes: a new metric of a table that is
-- read already is one line here and `make generate`.
--
-- Caller: the metrics collector, every METRICS_COLLECTION_INTERVAL, all of them
-- in one batch. One query a table, so that a missing table costs its own
-- samples; one pass over it, however many numbers.

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
-- The statistics collector's view of this database and the size of its files:
-- no table is read. connections counts backends as pg_stat_activity lists them.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT numbackends AS connections, pg_database_size(datid) AS size
    FROM pg_catalog.pg_stat_database
    WHERE datname = current_database()
) d
CROSS JOIN LATERAL (VALUES
    ('connections', 'postgres', '{}', d.connections::bigint),
    ('db_size_bytes', 'postgres', '{}', d.size)
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

-- The aggregates of a metrics cycle. Each returns samples (metric_name, service,
-- tags, value), and Go stores whatever comes: a new metric of a table that is
-- read already is one line here and `make generate`.
--
-- Caller: the metrics collector, as often as the table of aggregates says, those
-- that are due in one transaction, and less often what takes long. One query a
-- table, so that a missing table costs its own samples; one pass over it, however
-- many numbers. A number that needs a function which managed servers refuse
-- (0A000) has a query of its own.

-- name: ActivitySamples :many
-- How long the oldest transaction of this database's clients has been open, but for the
-- worker's own. Of another role's transactions only a member of pg_read_all_stats sees
-- the begin: where one is hidden there is no row, rather than a number that is too
-- small. Shared memory alone, a row a backend.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT CASE
               WHEN NOT coalesce(bool_or(a.query = '<insufficient privilege>' AND a.usesysid IS NOT NULL), false)
               THEN coalesce(max(date_part('epoch', clock_timestamp() - a.xact_start)) FILTER (WHERE a.backend_type = 'client backend'), 0)
           END AS longest
    FROM pg_catalog.pg_stat_activity a
    WHERE a.datname = current_database()
      AND a.pid <> pg_backend_pid()
      AND NOT (a.usename = session_user AND a.application_name = current_setting('application_name') AND a.application_name <> '')
) d
CROSS JOIN LATERAL (VALUES
    ('longest_transaction_seconds', 'postgres', '{}', d.longest)
) AS s (metric_name, service, tags, value)
WHERE s.value IS NOT NULL;

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

-- name: AlertTotalSamples :many
-- What of fleet_alert the open ones do not tell: a scan of it, which no index of the
-- platform's spares.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT count(*) FILTER (WHERE status = 'CLOSED') AS closed,
           count(*) FILTER (WHERE status = 'ACKNOWLEDGED') AS acknowledged,
           count(*) FILTER (WHERE created_at >= now() - interval '24 hours') AS day,
           count(*) FILTER (WHERE created_at >= now() - interval '1 hour') AS hour
    FROM fleet_alert
) a
CROSS JOIN LATERAL (VALUES
    ('alerts_closed', 'platform', '{}', a.closed),
    ('alerts_acknowledged', 'platform', '{}', a.acknowledged),
    ('alerts_24h', 'platform', '{}', a.day),
    ('alerts_1h', 'platform', '{}', a.hour)
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

-- name: DatabaseTotalSamples :many
-- What the server has counted of this database since its statistics were last reset,
-- and its limits: one row of shared memory and one of pg_database.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT d.xact_commit, d.xact_rollback, d.blks_hit, d.blks_read, d.temp_bytes, d.deadlocks,
           age(o.datfrozenxid) AS xid_age,
           current_setting('max_connections')::integer AS connections_max
    FROM pg_catalog.pg_stat_database d
    JOIN pg_catalog.pg_database o ON o.oid = d.datid
    WHERE d.datname = current_database()
) d
CROSS JOIN LATERAL (VALUES
    ('transactions_committed', 'postgres', '{}', d.xact_commit),
    ('transactions_rolled_back', 'postgres', '{}', d.xact_rollback),
    ('blocks_hit', 'postgres', '{}', d.blks_hit),
    ('blocks_read', 'postgres', '{}', d.blks_read),
    ('temp_bytes', 'postgres', '{}', d.temp_bytes),
    ('deadlocks', 'postgres', '{}', d.deadlocks),
    ('oldest_xid_age', 'postgres', '{}', d.xid_age),
    ('connections_max', 'postgres', '{}', d.connections_max)
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

-- name: DeliveryTotalSamples :many
-- What of delivery_jobs, or of the view that stands in for it, the pending ones do not
-- tell, and what the delivery service reports of it where the platform has one: a scan of
-- it. The jobs_* are left out while that service is monitored.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT count(*) FILTER (WHERE status = 'COMPLETED') AS succeeded,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'PENDING') AS pending,
           count(*) FILTER (WHERE created_at >= now() - interval '24 hours') AS day
    FROM delivery_jobs
) j
CROSS JOIN LATERAL (VALUES
    ('jobs_succeeded', 'delivery', '{}', j.succeeded),
    ('jobs_failed', 'delivery', '{}', j.failed),
    ('jobs_pending', 'delivery', '{}', j.pending),
    ('deliveries_succeeded', 'platform', '{}', j.succeeded),
    ('deliveries_failed', 'platform', '{}', j.failed),
    ('deliveries_24h', 'platform', '{}', j.day)
) AS s (metric_name, service, tags, value);

-- name: DeviceSamples :many
-- One pass over device_state, the largest table here, however many numbers: a
-- scan of the whole fleet.
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

-- name: IntegrationSamples :many
-- One pass over integrations, or the view that stands in for it: some rows a tenant.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT count(*) AS total,
           count(*) FILTER (WHERE enabled) AS active,
           count(*) FILTER (WHERE type = 'webhook') AS webhook,
           count(*) FILTER (WHERE type = 'email') AS email
    FROM integrations
) i
CROSS JOIN LATERAL (VALUES
    ('integrations_total', 'platform', '{}', i.total),
    ('integrations_active', 'platform', '{}', i.active),
    ('integrations_webhook', 'platform', '{}', i.webhook),
    ('integrations_email', 'platform', '{}', i.email)
) AS s (metric_name, service, tags, value);

-- name: LockSamples :many
-- How many of this database's backends wait for a lock. Shared memory alone, a row a
-- backend and a row a lock.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT count(DISTINCT l.pid) AS waiting
    FROM pg_catalog.pg_locks l
    JOIN pg_catalog.pg_stat_activity w ON w.pid = l.pid AND w.datname = current_database()
    WHERE NOT l.granted
) d
CROSS JOIN LATERAL (VALUES
    ('locks_waiting', 'postgres', '{}', d.waiting)
) AS s (metric_name, service, tags, value);

-- name: OfflineSamples :many
-- The devices that are offline, which no page charts: another pass over device_state,
-- every five minutes.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT count(*) AS offline
    FROM device_state
    WHERE status = 'OFFLINE'
) d
CROSS JOIN LATERAL (VALUES
    ('devices_offline', 'platform', '{}', d.offline)
) AS s (metric_name, service, tags, value);

-- name: RegistrySamples :many
-- One pass over device_registry, as long as that over device_state: a row a device. By
-- site first, since that is hashed, where count(DISTINCT site_id) sorts all devices.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT coalesce(sum(g.devices), 0) AS registered,
           coalesce(sum(g.active), 0) AS active,
           coalesce(sum(g.revoked), 0) AS revoked,
           count(g.site_id) AS sites
    FROM (
        SELECT site_id,
               count(*) AS devices,
               count(*) FILTER (WHERE status = 'ACTIVE') AS active,
               count(*) FILTER (WHERE status = 'REVOKED') AS revoked
        FROM device_registry
        GROUP BY site_id
    ) g
) r
CROSS JOIN LATERAL (VALUES
    ('devices_registered', 'platform', '{}', r.registered),
    ('devices_active', 'platform', '{}', r.active),
    ('devices_revoked', 'platform', '{}', r.revoked),
    ('sites', 'platform', '{}', r.sites)
) AS s (metric_name, service, tags, value);

-- name: ReplicationByteSamples :many
-- The WAL that the slowest standby of this server has not applied. No row without
-- standbys, or where the role may not see how far they are, which takes
-- pg_read_all_stats. Shared memory alone, a row a standby.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT max(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END, r.replay_lsn)) AS bytes
    FROM pg_catalog.pg_stat_replication r
    WHERE r.replay_lsn IS NOT NULL
) r
CROSS JOIN LATERAL (VALUES
    ('replication_lag_bytes', 'postgres', '{}', r.bytes)
) AS s (metric_name, service, tags, value)
WHERE s.value IS NOT NULL;

-- name: ReplicationLagSamples :many
-- For how long what the slowest standby of this server applied last had been on its
-- way. No row where ReplicationByteSamples has none, and it costs the same.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT max(coalesce(date_part('epoch', r.replay_lag), 0)) AS seconds
    FROM pg_catalog.pg_stat_replication r
    WHERE r.replay_lsn IS NOT NULL
) r
CROSS JOIN LATERAL (VALUES
    ('replication_lag_seconds', 'postgres', '{}', r.seconds)
) AS s (metric_name, service, tags, value)
WHERE s.value IS NOT NULL;

-- name: RuleSamples :many
-- One pass over alert_rules: some rows a tenant.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT count(*) AS total,
           count(*) FILTER (WHERE enabled) AS active
    FROM alert_rules
) r
CROSS JOIN LATERAL (VALUES
    ('rules_total', 'platform', '{}', r.total),
    ('rules_active', 'platform', '{}', r.active)
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

-- name: TableSamples :many
-- The ten largest tables with their indexes and what is stored beside them, as the
-- route /capacity has them; but chunks and partitions count with the table that they
-- are parts of, and what TimescaleDB keeps for itself counts together. The server asks
-- the system for the size of every file: 5,000 tables took 0.8 to 1 s (PostgreSQL 15,
-- EXPLAIN ANALYZE, two cores), so that there it is counted beside the cycles.
-- To size a table takes its lock: one that is, or is about to be, locked against
-- readers has no row, nor has one of which a part is; one that is dropped meanwhile
-- is of no size.
WITH RECURSIVE tree AS (
    SELECT c.oid AS part, c.oid AS root
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm')
      AND n.nspname NOT LIKE 'pg\_%'
      AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
    UNION
    SELECT i.inhrelid, t.root
    FROM tree t
    JOIN pg_catalog.pg_inherits i ON i.inhparent = t.part
), locked AS (
    SELECT DISTINCT coalesce(x.indrelid, l.relation) AS relation
    FROM pg_catalog.pg_locks l
    LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = l.relation
    WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid()
      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
)
SELECT 'table_bytes'::text AS metric_name, 'postgres'::text AS service,
       jsonb_build_object('table', b.name)::text AS tags, b.bytes::float8 AS value
FROM (
    SELECT CASE n.nspname WHEN '_timescaledb_internal' THEN n.nspname WHEN 'public' THEN c.relname ELSE n.nspname || '.' || c.relname END AS name,
           sum(CASE WHEN k.relation IS NULL THEN pg_total_relation_size(t.part) END) AS bytes
    FROM (SELECT tree.part, min(tree.root) AS root FROM tree GROUP BY tree.part) t
    JOIN pg_catalog.pg_class c ON c.oid = t.root
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN locked k ON k.relation = t.part
    GROUP BY 1
    HAVING count(k.relation) = 0
) b
WHERE b.bytes IS NOT NULL
ORDER BY b.bytes DESC, b.name
LIMIT 10;

-- name: TenantSamples :many
-- One pass over tenants: a row a tenant.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (

    SELECT count(*) AS total,
           count(*) FILTER (WHERE status = 'ACTIVE') AS active,
           count(*) FILTER (WHERE status = 'SUSPENDED') AS suspended,
           count(*) FILTER (WHERE status = 'DELETED') AS deleted
    FROM tenants
) t
CROSS JOIN LATERAL (VALUES
    ('tenants_total', 'platform', '{}', t.total),
    ('tenants_active', 'platform', '{}', t.active),
    ('tenants_suspended', 'platform', '{}', t.suspended),
    ('tenants_deleted', 'platform', '{}', t.deleted)
) AS s (metric_name, service, tags, value);

-- name: WalSamples :many
-- How much WAL this server has written since it was made; no row on a standby, which
-- writes none of its own. Shared memory alone.
SELECT s.metric_name::text AS metric_name, s.service::text AS service, s.tags::text AS tags, s.value::float8 AS value
FROM (
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') END AS wal
) d
CROSS JOIN LATERAL (VALUES
    ('wal_bytes', 'postgres', '{}', d.wal)
) AS s (metric_name, service, tags, value)
WHERE s.value IS NOT NULL;

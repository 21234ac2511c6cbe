-- What stands in the database: db makes sure of it, and doctor judges it.
-- Caller, unless a query says otherwise: every start, and hourly.

-- name: AppliedMigrations :many
-- The migrations that goose has applied: it takes the row of one that is taken
-- back away. Only where goose's table stands.
SELECT v.version_id, (max(v.tstamp) AT TIME ZONE 'UTC')::timestamptz AS applied_at
FROM ops_worker_schema_version v
WHERE v.version_id > 0
GROUP BY v.version_id
ORDER BY v.version_id;

-- name: DescribeDatabase :one
-- What decides whether this is a database for the worker. A table of an extension is
-- nobody's.
SELECT current_database()::text AS name,
       current_user::text AS login_role,
       coalesce(has_schema_privilege(to_regnamespace('public')::oid, 'USAGE'), false)::boolean AS public_usable,
       EXISTS (
           SELECT FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
             AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%' AND n.nspname !~ '^_?timescaledb_'
             AND NOT EXISTS (
                 SELECT FROM pg_catalog.pg_depend d
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))::boolean AS has_tables;

-- name: DescribeRelations :many
-- Those of the given tables, views and indexes that stand, whether the login role
-- and the role that the platform's system routes take on may read them, and what
-- tells a table that the worker made from one that the platform has made its own
-- since. TimescaleDB puts a trigger on a hypertable.
SELECT n.name::text AS name,
       c.relkind::text AS kind,
       row_security_active(c.oid)::boolean AS row_security_active,
       coalesce(obj_description(c.oid, 'pg_class'), '')::text AS comment,
       coalesce(has_table_privilege(r.oid, c.oid, 'SELECT'), false)::boolean AS operator_reads,
       has_table_privilege(c.oid, 'SELECT')::boolean AS readable,
       ARRAY(
           SELECT a.attname::text
           FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           ORDER BY a.attnum)::text[] AS columns,
       (EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname <> 'ts_insert_blocker')
        OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid)))::boolean AS linked,
       (c.relkind = 'r' AND pg_relation_size(c.oid) > 0)::boolean AS filled
FROM (SELECT unnest(@names::text[]) AS name) n
JOIN pg_catalog.pg_class c ON c.oid = to_regclass(n.name)
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = 'pulse_operator'
ORDER BY n.name;

-- name: DescribeServer :one
-- What decides which statements make what is missing.
SELECT current_setting('server_version_num')::integer AS version_num,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pulse_operator')::boolean AS operator_exists,
       coalesce((
           SELECT pg_has_role(current_user, r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
           FROM pg_catalog.pg_roles r
           WHERE r.rolname = 'pulse_operator'), false)::boolean AS takes_on_operator;

-- name: FindElsewhere :many
-- Those of the given tables and views, and of those that the worker has made in the
-- platform's place, that stand in another schema than public, beside a table that is
-- the worker's own and nobody else's; and whether public has one of that name too.
SELECT n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       (p.oid IS NOT NULL)::boolean AS in_public
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class p ON p.relnamespace = to_regnamespace('public') AND p.relname = c.relname
WHERE (c.relname::text = ANY (@names::text[]) OR obj_description(c.oid, 'pg_class') LIKE 'created by ops\_worker%')
  AND c.relkind IN ('r', 'p', 'v') AND c.relpersistence = 'p'
  AND n.nspname <> 'public'
  AND EXISTS (
      SELECT FROM pg_catalog.pg_class own
      WHERE own.relnamespace = c.relnamespace AND own.relkind = 'r' AND own.relname LIKE 'ops\_worker\_%' AND own.relname::text = ANY (@names::text[]))
ORDER BY n.nspname, array_position(@names::text[], c.relname::text), c.relname;

-- name: GrantFacts :one
-- What sql/grants.sql depends on, of a role that need not exist: the database, the
-- sequence behind an alert's id (an identity column needs no right to its own), and the
-- conditions of its lines that hold. A policy binds the role unless it owns the table.
-- Caller: `grants`.
SELECT current_database()::text AS database,
       coalesce(s.name, '')::text AS alert_sequence,
       ARRAY(
           SELECT c.name
           FROM (VALUES
               ('new_login', r.oid IS NULL),
               ('policies', p.bind),
               ('new_operator', p.bind AND o.oid IS NULL),
               ('bound_operator', p.bind AND NOT (o.rolbypassrls OR o.rolsuper)),
               ('alert_sequence', s.name IS NOT NULL),
               ('maintenance_windows', to_regclass('public.alert_maintenance_windows') IS NOT NULL),
               ('delivery_jobs_view', (SELECT v.relkind = 'v' FROM pg_catalog.pg_class v WHERE v.oid = to_regclass('public.delivery_jobs'))),
               ('integrations_view', (SELECT v.relkind = 'v' FROM pg_catalog.pg_class v WHERE v.oid = to_regclass('public.integrations')))
           ) AS c (name, holds)
           WHERE c.holds)::text[] AS conditions
FROM (SELECT) one
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = @role::text
LEFT JOIN pg_catalog.pg_roles o ON o.rolname = 'pulse_operator'
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT
        FROM pg_catalog.pg_class c
        WHERE c.relrowsecurity
          AND NOT coalesce(r.rolsuper OR r.rolbypassrls, false)
          AND (c.relforcerowsecurity OR r.oid IS NULL OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))) AS bind
) p
CROSS JOIN LATERAL (
    SELECT (
        SELECT pg_get_serial_sequence('public.fleet_alert', a.attname::text)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = to_regclass('public.fleet_alert') AND a.attname = 'id' AND a.attidentity = '' AND NOT a.attisdropped) AS name
) s;

-- name: HoldersOf :many
-- The sessions that hold a lock on one of the given tables, the oldest transaction
-- first. Of what a session runs only the first word: a statement may hold a password.
-- Caller: a migration that has given up on a lock.
SELECT a.pid::integer AS pid,
       coalesce(a.usename, '')::text AS role,
       coalesce(a.application_name, '')::text AS application,
       coalesce(a.state, '')::text AS state,
       upper(coalesce(substring(a.query FROM '^\s*(\w+)'), ''))::text AS command,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8 AS seconds
FROM pg_catalog.pg_stat_activity a
WHERE a.pid <> pg_backend_pid()
  AND EXISTS (
      SELECT FROM pg_catalog.pg_locks l
      JOIN (SELECT unnest(@names::text[]) AS name) n ON l.relation = to_regclass(n.name)
      WHERE l.pid = a.pid AND l.granted AND l.locktype = 'relation' AND a.datname = current_database())
ORDER BY a.xact_start
LIMIT 5;

-- name: LockSchema :exec
-- Replicas that start together take turns. Held by the transaction, so a pooler
-- is no obstacle.
SELECT pg_advisory_xact_lock(hashtext('ops_worker_ensure_platform'));

-- name: MarkForMigrator :execrows
-- The worker's row for the platform's migrator, which takes a database with
-- tables and without a row for one that it has migrated before. Only where
-- schema_migrations stands.
INSERT INTO schema_migrations (version, filename)
SELECT @version, @filename
WHERE NOT EXISTS (SELECT FROM schema_migrations);

-- name: MigratorHistory :one
-- What the platform's migrator has noted, and whether the worker has. Only where
-- schema_migrations stands.
SELECT count(*) FILTER (WHERE version <> @mark)::bigint AS files,
       (count(*) FILTER (WHERE version = @mark) > 0)::boolean AS marked
FROM schema_migrations;

-- name: SamplesEmpty :one
-- Whether system_metrics has no row: a table that has may not become a hypertable at a
-- start.
SELECT (NOT EXISTS (SELECT FROM system_metrics))::boolean AS empty;

-- name: TimescaleAvailable :one
-- Whether the server has TimescaleDB for this database, which does not have it yet.
-- Its loader defines the setting where it is preloaded; where it is not, the extension
-- cannot be made.
SELECT (current_setting('timescaledb.disable_load', true) IS NOT NULL
        AND EXISTS (
            SELECT FROM pg_catalog.pg_available_extensions e
            WHERE e.name = 'timescaledb' AND e.installed_version IS NULL))::boolean AS available;

-- name: TimescaleExtension :one
-- TimescaleDB's version and the schema of its functions; no row on plain
-- PostgreSQL.
SELECT e.extversion::text AS version, n.nspname::text AS schema
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'timescaledb';

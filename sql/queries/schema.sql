-- What stands in the database: db makes sure of it, and doctor judges it.
-- Caller, unless a query says otherwise: every start, and hourly.

-- name: AppliedMigrations :many
-- The migrations that goose has applied; the newest entry of a version counts,
-- as goose reads it. Only where goose's table stands.
SELECT v.version_id
FROM (
    SELECT DISTINCT ON (version_id) version_id, is_applied
    FROM ops_worker_schema_version
    ORDER BY version_id, id DESC
) v
WHERE v.is_applied AND v.version_id > 0
ORDER BY v.version_id;

-- name: DescribeRelations :many
-- Those of the given tables, views and indexes that stand, and whether the role
-- that the platform's system routes take on may read them.
SELECT n.name::text AS name,
       c.relkind::text AS kind,
       c.relrowsecurity::boolean AS row_security,
       (c.relkind = 'v' AND coalesce('security_invoker=true' = ANY (c.reloptions), false))::boolean AS security_invoker,
       coalesce(obj_description(c.oid, 'pg_class'), '')::text AS comment,
       coalesce(has_table_privilege(r.oid, c.oid, 'SELECT'), false)::boolean AS operator_reads
FROM (SELECT unnest(@names::text[]) AS name) n
JOIN pg_catalog.pg_class c ON c.oid = to_regclass(n.name)
LEFT JOIN pg_catalog.pg_roles r ON r.rolname = 'pulse_operator'
ORDER BY n.name;

-- name: DescribeServer :one
-- What decides which statements make what is missing.
SELECT current_setting('server_version_num')::integer AS version_num,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pulse_operator')::boolean AS operator_exists,
       EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pulse_app')::boolean AS app_exists;

-- name: LockSchema :exec
-- Replicas that start together take turns. Held by the transaction, so a pooler
-- is no obstacle.
SELECT pg_advisory_xact_lock(hashtext('ops_worker_ensure_platform'));

-- name: TimescaleExtension :one
-- TimescaleDB's version and the schema of its functions; no row on plain
-- PostgreSQL.
SELECT e.extversion::text AS version, n.nspname::text AS schema
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'timescaledb';

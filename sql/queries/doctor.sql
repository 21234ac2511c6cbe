-- What `ops-worker doctor` asks. Every query runs in a read-only transaction
-- with a statement time-out, on a database that may be in any state: so the
-- catalogues are asked first, and a query on a table only where that stands.

-- name: DoctorBackend :one
-- Which server process answers. Two of them within one client's connection, or
-- one for two clients, tell a pooler in transaction mode.
SELECT pg_backend_pid()::integer AS pid;

-- name: DoctorEnterRole :one
-- From here to the end of the transaction: a role, or the login role where none
-- is given. Returns it.
SELECT set_config('role', coalesce(nullif(@role::text, ''), current_user)::text, true)::text AS role;

-- name: DoctorHealthRows :many
-- service_health whole: a row a service.
SELECT service, status, checked_at, clock_timestamp()::timestamptz AS now
FROM service_health
ORDER BY service;

-- name: DoctorNewestSamples :many
-- The newest sample of each given series, the epoch where it has none: one step
-- each through (metric_name, service, time).
SELECT w.service::text AS service, w.metric_name::text AS metric_name, coalesce(n.time, 'epoch')::timestamptz AS newest
FROM (
    SELECT unnest(@services::text[]) AS service,
           unnest(@metric_names::text[]) AS metric_name
) w
LEFT JOIN LATERAL (
    SELECT m.time
    FROM system_metrics m
    WHERE m.metric_name = w.metric_name AND m.service = w.service
    ORDER BY m.time DESC
    LIMIT 1
) n ON true;

-- name: DoctorOldestSample :one
-- The oldest sample of a plain table, name by name through (metric_name, time);
-- no row on an empty table. On a hypertable the oldest chunk tells.
WITH RECURSIVE names AS (
    (SELECT m.metric_name FROM system_metrics m ORDER BY m.metric_name LIMIT 1)
    UNION ALL
    SELECT (SELECT m.metric_name FROM system_metrics m WHERE m.metric_name > n.metric_name ORDER BY m.metric_name LIMIT 1)
    FROM names n
    WHERE n.metric_name IS NOT NULL
)
SELECT e.time AS oldest
FROM names n
CROSS JOIN LATERAL (
    SELECT m.time
    FROM system_metrics m
    WHERE m.metric_name = n.metric_name
    ORDER BY m.time
    LIMIT 1
) e
WHERE n.metric_name IS NOT NULL
ORDER BY e.time
LIMIT 1;

-- name: DoctorOpenAlerts :many
-- The system alerts that are open, acknowledged ones included.
SELECT substr(fingerprint, 15)::text AS service, status, created_at
FROM fleet_alert
WHERE tenant_id = '__system__'
  AND fingerprint LIKE 'system-health:%'
  AND status IN ('OPEN', 'ACKNOWLEDGED')
ORDER BY fingerprint, created_at;

-- name: DoctorPrivileges :many
-- Of the given privileges those that are missing, on tables that stand and for
-- roles that exist.
SELECT w.role::text AS role, w.relation::text AS relation, w.privilege::text AS privilege
FROM (
    SELECT unnest(@roles::text[]) AS role,
           unnest(@relations::text[]) AS relation,
           unnest(@privileges::text[]) AS privilege
) w
JOIN pg_catalog.pg_roles r ON r.rolname = w.role
JOIN pg_catalog.pg_class c ON c.oid = to_regclass(w.relation)
WHERE NOT has_table_privilege(r.oid, c.oid, w.privilege)
ORDER BY w.role, w.relation, w.privilege;

-- name: DoctorRole :one
-- The login role, the role that the platform's routes take on, and what both may
-- do in the schema public.
SELECT current_user::text AS login_role,
       (p.oid IS NOT NULL)::boolean AS operator_exists,
       coalesce(p.rolbypassrls OR p.rolsuper, false)::boolean AS operator_bypasses,
       coalesce(pg_has_role(current_user, p.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END), false)::boolean AS operator_granted,
       coalesce(has_schema_privilege(current_user, n.oid, 'CREATE'), false)::boolean AS creates_tables,
       coalesce(has_schema_privilege(current_user, n.oid, 'USAGE'), false)::boolean AS uses_schema,
       coalesce(has_schema_privilege(p.oid, n.oid, 'USAGE'), false)::boolean AS operator_uses_schema
FROM (SELECT) me
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'public'
LEFT JOIN pg_catalog.pg_roles p ON p.rolname = 'pulse_operator';

-- name: DoctorSequences :many
-- Those of the given sequences that a role may not draw from.
SELECT n.name::text AS name
FROM (SELECT unnest(@names::text[]) AS name) n
WHERE NOT has_sequence_privilege(@role::text, n.name, 'USAGE')
ORDER BY n.name;

-- name: DoctorSeries :many
-- How many points the given series have had in the last window_seconds: ranges of
-- (metric_name, time).
SELECT m.metric_name, coalesce(m.service, '')::text AS service, count(*)::bigint AS points
FROM system_metrics m
WHERE m.metric_name = ANY (@metric_names::text[])
  AND m.time > now() - make_interval(secs => @window_seconds::float8)
GROUP BY m.metric_name, m.service
ORDER BY m.metric_name, m.service;

-- name: DoctorServer :one
-- The server, and the connection as the server sees it.
SELECT current_setting('server_version')::text AS version,
       current_setting('server_version_num')::integer AS version_num,
       current_database()::text AS database,
       session_user::text AS login_role,
       pg_is_in_recovery()::boolean AS standby,
       pg_backend_pid()::integer AS pid,
       coalesce(host(inet_client_addr()), '')::text AS client_address,
       coalesce(inet_client_port(), 0)::integer AS client_port,
       coalesce(s.ssl, false)::boolean AS ssl,
       coalesce(s.version, '')::text AS ssl_version
FROM (SELECT pg_backend_pid() AS pid) me
LEFT JOIN pg_catalog.pg_stat_ssl s ON s.pid = me.pid;

-- name: DoctorSessions :many
-- Who is connected to this database, but for the doctor itself. Of other roles'
-- sessions the address and the kind are shown to pg_read_all_stats alone.
SELECT coalesce(a.application_name, '')::text AS application_name,
       coalesce(a.usename::text, '')::text AS login_role,
       coalesce(host(a.client_addr), '')::text AS client_address,
       count(*)::bigint AS sessions
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database()
  AND a.usesysid IS NOT NULL
  AND coalesce(a.backend_type, 'client backend') = 'client backend'
  AND a.pid <> pg_backend_pid()
  AND a.application_name IS DISTINCT FROM @own_name::text
GROUP BY 1, 2, 3
ORDER BY 4 DESC, 1, 2, 3;

-- What `ops-worker doctor` asks. Every query runs in a read-only transaction
-- with a statement time-out. No table of the platform or the worker need stand: a
-- query on one that is missing costs its own check.

-- name: DoctorConnections :one
-- How many connections the server has for ordinary roles, how many are in use, how
-- many of them by the worker, and from how many addresses. Of other roles' sessions
-- the kind is shown to pg_read_all_stats alone. Shared memory, a row a backend.
SELECT (current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true)::integer, 0))::bigint AS available,
       count(*)::bigint AS used,
       (count(*) FILTER (WHERE a.datname = current_database() AND a.application_name = @service_name::text))::bigint AS own,
       (count(DISTINCT coalesce(host(a.client_addr), '')) FILTER (WHERE a.datname = current_database() AND a.application_name = @service_name::text))::bigint AS replicas
FROM pg_catalog.pg_stat_activity a
WHERE a.usesysid IS NOT NULL
  AND coalesce(a.backend_type, 'client backend') = 'client backend';

-- name: DoctorEnterRole :one
-- From here to the end of the transaction: a role. Returns it.
SELECT set_config('role', @role::text, true)::text AS role;

-- name: DoctorNewestWrites :one
-- The newest sample, by one step a name through (metric_name, time), and the newest
-- health row; the epoch where there is none. And the services whose health rows nobody
-- refreshes any more: they are not monitored, and overdue. The names are found as by the view
-- ops_worker_series, which does not stand yet before the cut-over. An append moves the lease's
-- last_cycle_at in its own transaction, so that a sample newer than that is another
-- writer's. What lies further ahead than future_seconds was stamped by a clock that
-- was wrong, and hides nothing.
WITH RECURSIVE names AS (
    (SELECT m.metric_name FROM system_metrics m ORDER BY m.metric_name LIMIT 1)
    UNION ALL
    SELECT (SELECT m.metric_name FROM system_metrics m WHERE m.metric_name > n.metric_name ORDER BY m.metric_name LIMIT 1)
    FROM names n
    WHERE n.metric_name IS NOT NULL
)
SELECT coalesce((
           SELECT max(s.time)
           FROM names n
           CROSS JOIN LATERAL (
               SELECT m.time
               FROM system_metrics m
               WHERE m.metric_name = n.metric_name
                 AND m.time <= clock_timestamp() + make_interval(secs => @future_seconds::float8)
               ORDER BY m.time DESC
               LIMIT 1
           ) s), 'epoch')::timestamptz AS newest_sample,
       coalesce((
           SELECT max(h.checked_at)
           FROM service_health h
           WHERE h.checked_at <= clock_timestamp() + make_interval(secs => @future_seconds::float8)), 'epoch')::timestamptz AS newest_check,
       coalesce((
           SELECT array_agg(h.service ORDER BY h.service)
           FROM service_health h
           WHERE h.service <> ALL (@monitored::text[])
             AND h.checked_at < clock_timestamp() - make_interval(secs => @overdue_seconds::float8)), '{}')::text[] AS left_behind,
       clock_timestamp()::timestamptz AS now;

-- name: DoctorRole :one
-- The login role, the role that the platform's routes take on, and what both may
-- do in the schema public.
SELECT me.rolsuper::boolean AS superuser,
       me.rolbypassrls::boolean AS bypass_rls,
       (p.oid IS NOT NULL)::boolean AS operator_exists,
       coalesce(p.rolbypassrls OR p.rolsuper, false)::boolean AS operator_bypasses,
       coalesce(pg_has_role(current_user, p.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END), false)::boolean AS operator_granted,
       coalesce(has_schema_privilege(current_user, n.oid, 'CREATE'), false)::boolean AS creates_tables
FROM pg_catalog.pg_roles me
LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = 'public'
LEFT JOIN pg_catalog.pg_roles p ON p.rolname = 'pulse_operator'
WHERE me.rolname = current_user;

-- name: DoctorServer :one
-- The server, the role, and which of the server's processes answers.
SELECT current_setting('server_version')::text AS version,
       current_setting('server_version_num')::integer AS version_num,
       current_user::text AS login_role,
       pg_is_in_recovery()::boolean AS standby,
       pg_backend_pid()::integer AS pid;

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

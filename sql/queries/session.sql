-- What holds for one transaction and ends with it: nothing here outlives it, so
-- PgBouncer in transaction mode is no obstacle.

-- name: ConfigureTransaction :exec
-- What holds for the rest of the transaction. The server's own limits, in
-- milliseconds: for each statement, for a lock that a migration of the platform
-- may hold for long, and for a worker that is stopped and can end nothing itself.
-- Names are found where the platform's migrator puts its tables. No parallel
-- workers: what the worker counts takes one core at most; no compiling of plans,
-- which takes longer than most of them run. Row-level security that would hide rows
-- is an error. And the formats of values, whatever the database, the role or the
-- pooler sets; those that a pooler keeps for each client are start-up parameters.
SELECT set_config('statement_timeout', (@statement_ms::bigint)::text, true),
       set_config('lock_timeout', (@lock_ms::bigint)::text, true),
       set_config('idle_in_transaction_session_timeout', (@statement_ms::bigint)::text, true),
       set_config('search_path', 'public', true),
       set_config('row_security', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true),
       set_config('jit', 'off', true),
       set_config('IntervalStyle', 'postgres', true),
       set_config('extra_float_digits', '1', true);

-- name: DescribeSession :one
-- Who the worker is to this database. Caller: every start, and doctor.
SELECT current_setting('server_version')::text AS server_version,
       current_user::text AS login_role,
       (me.rolsuper)::boolean AS superuser,
       (me.rolbypassrls)::boolean AS bypass_rls
FROM pg_catalog.pg_roles me
WHERE me.rolname = current_user;

-- name: EnterPlatformScope :one
-- From here to the end of the transaction: the role in which the platform's
-- tables are read and written. A login role that no policy binds keeps its own
-- rights; else it takes on the operator's role, or the operator's for reading,
-- where it may. Returns the role.
-- The login role is current_user, which ALTER ROLE … SET role may have chosen.
-- Looking for a policy that binds it reads pg_class, unless it is a superuser.
-- Caller: the aggregates, the alerts, every start, doctor, and status.
SELECT set_config('role', found.role, true)::text AS role
FROM (
    SELECT coalesce(operator.rolname, current_user)::text AS role
    FROM pg_catalog.pg_roles me
    LEFT JOIN LATERAL (
        SELECT r.rolname
        FROM pg_catalog.pg_roles r
        WHERE NOT (me.rolsuper OR me.rolbypassrls)
          AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relrowsecurity AND row_security_active(c.oid))
          AND r.rolname IN ('pulse_operator', 'pulse_operator_read')
          AND (r.rolbypassrls OR r.rolsuper)
          AND pg_has_role(current_user, r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
        ORDER BY r.rolname
        LIMIT 1
    ) operator ON true
    WHERE me.rolname = current_user
    LIMIT 1 -- or the scan would go on with another current_user
) found;

-- name: CurrentRole :one
-- The role before EnterPlatformScope, for LeavePlatformScope.
SELECT current_user::text AS role;

-- name: LeavePlatformScope :exec
-- Back to the role that the transaction began in, which our own tables are read and
-- written in. Caller: the messages about alerts.
SELECT set_config('role', @role::text, true);

-- name: Now :one
-- The database's clock, which is the clock of every sample; and the query
-- whose success makes the database healthy.
SELECT clock_timestamp()::timestamptz AS now;

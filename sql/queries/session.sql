-- What holds for one transaction and ends with it: nothing here outlives it, so
-- PgBouncer in transaction mode is no obstacle.

-- name: DescribeSession :one
-- Who the worker is to this database and what that lets it see, for the log
-- line at start. scope_role is the role that EnterPlatformScope will take on.
SELECT current_setting('server_version')::text AS server_version,
       session_user::text AS login_role,
       (me.rolsuper)::boolean AS superuser,
       (me.rolbypassrls)::boolean AS bypass_rls,
       coalesce((
           SELECT r.rolname
           FROM pg_catalog.pg_roles r
           WHERE r.rolname IN ('pulse_operator', 'pulse_operator_read')
             AND (r.rolbypassrls OR r.rolsuper)
             AND pg_has_role(session_user, r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
             AND (NOT (me.rolsuper OR me.rolbypassrls) OR NOT EXISTS (
                 SELECT FROM unnest(ARRAY['device_state', 'fleet_alert', 'delivery_jobs']) AS t (name)
                 WHERE NOT has_table_privilege(r.oid, to_regclass(t.name), 'SELECT')))
           ORDER BY r.rolname
           LIMIT 1), session_user)::text AS scope_role,
       EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')::boolean AS timescaledb
FROM pg_catalog.pg_roles me
WHERE me.rolname = session_user;

-- name: EnterPlatformScope :one
-- From here to the end of the transaction: the operator's role where the login
-- role may take it on, and an error, never a silent filter, where row-level
-- security would still hide rows. A login role that no policy binds keeps its
-- own rights where the operator's would not do, as on a table that was made
-- again since. Returns the role.
SELECT set_config('row_security', 'off', true)::text AS row_security,
       set_config('role', coalesce((
           SELECT r.rolname
           FROM pg_catalog.pg_roles r
           WHERE r.rolname IN ('pulse_operator', 'pulse_operator_read')
             AND (r.rolbypassrls OR r.rolsuper)
             AND pg_has_role(session_user, r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
             AND (NOT (me.rolsuper OR me.rolbypassrls) OR NOT EXISTS (
                 SELECT FROM unnest(ARRAY['device_state', 'fleet_alert', 'delivery_jobs']) AS t (name)
                 WHERE NOT has_table_privilege(r.oid, to_regclass(t.name), 'SELECT')))
           ORDER BY r.rolname
           LIMIT 1), session_user), true)::text AS role
FROM pg_catalog.pg_roles me
WHERE me.rolname = session_user;

-- name: LimitTransaction :one
-- The server's own limits on what follows in the same batch or transaction, in
-- milliseconds: for each statement, for a lock that a migration of the platform
-- may hold for long, and for a worker that is stopped and can end nothing itself.
SELECT set_config('statement_timeout', (@limit_ms::bigint)::text, true)::text AS statement_timeout,
       set_config('lock_timeout', ((@limit_ms::bigint) / 4 + 1)::text, true)::text AS lock_timeout,
       set_config('idle_in_transaction_session_timeout', (@limit_ms::bigint)::text, true)::text AS idle_timeout;

-- name: Now :one
-- The database's clock, which is the clock of every sample; and the query
-- whose success makes the database healthy.
SELECT clock_timestamp()::timestamptz AS now;

-- name: EnterAlertScope :one
-- The same for writing system alerts: a login role that the policies bind takes
-- on the operator's role, if that one may write alerts. Policies that would
-- hide an alert raise an error, since a hidden one would be opened twice and
-- never closed.
SELECT set_config('row_security', 'off', true)::text AS row_security,
       set_config('role', CASE WHEN me.rolsuper OR me.rolbypassrls THEN session_user::text ELSE coalesce((
           SELECT r.rolname::text
           FROM pg_catalog.pg_roles r
           WHERE r.rolname = 'pulse_operator'
             AND r.rolbypassrls
             AND pg_has_role(session_user, r.oid, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
             AND has_table_privilege(r.oid, to_regclass('fleet_alert'), 'SELECT')
             AND has_table_privilege(r.oid, to_regclass('fleet_alert'), 'INSERT')
             AND has_table_privilege(r.oid, to_regclass('fleet_alert'), 'UPDATE')
             AND has_table_privilege(r.oid, to_regclass('tenants'), 'SELECT')
             AND has_table_privilege(r.oid, to_regclass('tenants'), 'INSERT')
             AND (to_regclass('fleet_alert_id_seq') IS NULL
                  OR has_sequence_privilege(r.oid, to_regclass('fleet_alert_id_seq')::oid, 'USAGE'))
       ), session_user::text) END, true)::text AS role
FROM pg_catalog.pg_roles me
WHERE me.rolname = session_user;

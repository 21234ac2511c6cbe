-- name: EnsurePlatform :many
-- Makes sure of every table that the platform's system routes read; a row for
-- what it made or could not make. Caller: every start, after the migrations.
SELECT e.object::text AS object, e.action::text AS action, e.detail::text AS detail
FROM ops_worker_ensure_platform() AS e (object, action, detail);

-- name: EnsureOperatorRole :many
-- Makes sure of the role pulse_operator and of its SELECT on those tables.
SELECT e.object::text AS object, e.action::text AS action, e.detail::text AS detail
FROM ops_worker_ensure_operator_role() AS e (object, action, detail);

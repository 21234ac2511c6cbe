-- The lease: which replica collects. Time is the database's alone, and
-- clock_timestamp() rather than now(), since a statement may have waited for a
-- lock longer than the lease lasts. Holder and epoch are the fencing token.

-- name: AcquireLease :one
-- Takes the lease where nobody holds it, or this very holder has left it; no row
-- means that another replica holds it. It waits for a store in flight.
-- Caller: a standby that finds the lease free; it looks once a second.
UPDATE ops_worker_lease l
SET holder = @holder,
    epoch = l.epoch + 1,
    acquired_at = clock_timestamp(),
    expires_at = clock_timestamp() + make_interval(secs => @ttl_seconds::float8),
    ttl = make_interval(secs => @ttl_seconds::float8),
    cycle_interval = make_interval(secs => @cycle_seconds::float8)
WHERE l.name = @name
  AND (l.holder IN ('', @holder) OR NOT (l.expires_at > clock_timestamp() AND l.expires_at <= clock_timestamp() + l.ttl))
RETURNING l.epoch, l.last_cycle_at, clock_timestamp()::timestamptz AS now;

-- name: CreateLease :exec
-- Makes the row where it is missing, held by nobody, from the newest sample that
-- stands: one step a name through (metric_name, time). What lies further ahead than
-- future_seconds was stamped by a clock that was wrong, and is passed over.
-- Caller: a take-over that finds no row.
INSERT INTO ops_worker_lease (name, holder, epoch, acquired_at, expires_at, ttl, last_cycle_at)
SELECT @name, '', 0, clock_timestamp(), clock_timestamp(), interval '0', coalesce(max(newest.time), 'epoch')
FROM ops_worker_series n
CROSS JOIN LATERAL (
    SELECT m.time
    FROM system_metrics m
    WHERE m.metric_name = n.metric_name
      AND m.time <= clock_timestamp() + make_interval(secs => @future_seconds::float8)
    ORDER BY m.time DESC
    LIMIT 1
) newest
ON CONFLICT (name) DO NOTHING;

-- name: HoldLease :execrows
-- The fence: locks the lease to the end of the transaction while it is still this
-- holder's; no row means that it is lost. A take-over waits for this lock; the
-- holder's own stores and renewals, which change no key, do not, however long the
-- transaction waits for a table of the platform.
SELECT FROM ops_worker_lease
WHERE name = @name AND holder = @holder AND epoch = @epoch AND expires_at > clock_timestamp()
FOR KEY SHARE;

-- name: LockLease :execrows
-- Before a take-over, in its transaction: waits for every write of the holder.
SELECT FROM ops_worker_lease WHERE name = @name FOR UPDATE;

-- name: ReadLease :one
-- Who collects. A lease that was handed back has no holder, and one that lies
-- further ahead than it is taken for is not held, whoever wrote it.
-- Caller: a standby, once a second; retention, before each batch; and doctor.
SELECT holder, last_holder, epoch, acquired_at, expires_at, last_cycle_at,
       date_part('epoch', cycle_interval)::float8 AS cycle_seconds,
       (holder <> '' AND expires_at > clock_timestamp() AND expires_at <= clock_timestamp() + ttl)::boolean AS held,
       (expires_at > clock_timestamp() + ttl)::boolean AS from_the_future,
       pg_is_in_recovery()::boolean AS read_only,
       clock_timestamp()::timestamptz AS now
FROM ops_worker_lease
WHERE name = @name;

-- name: ReleaseLease :execrows
-- Hands the lease back at shutdown, so that a standby need not wait for it to
-- expire. Without a holder it is free, and not merely overdue.
UPDATE ops_worker_lease
SET holder = '', last_holder = holder, expires_at = clock_timestamp()
WHERE name = @name AND holder = @holder AND epoch = @epoch;

-- name: RenewLease :one
-- Extends a lease that has not expired; no row means that it is lost. Returns
-- the database's clock, which the samples are stamped by.
UPDATE ops_worker_lease
SET expires_at = clock_timestamp() + make_interval(secs => @ttl_seconds::float8),
    ttl = make_interval(secs => @ttl_seconds::float8)
WHERE name = @name AND holder = @holder AND epoch = @epoch AND expires_at > clock_timestamp()
RETURNING clock_timestamp()::timestamptz AS now;

-- name: TouchLease :execrows
-- Changes nothing, but fails where the database refuses writes. Caller: a
-- standby that has seen the database in trouble, before it trusts it again.
UPDATE ops_worker_lease
SET name = name
WHERE name = @name;

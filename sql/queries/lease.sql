-- The lease: which replica collects. Time is the database's alone, and
-- clock_timestamp() rather than now(), since a statement may have waited for a
-- lock longer than the lease lasts. Holder and epoch are the fencing token.

-- name: AcquireLease :one
-- Takes the lease where it is free, expired or left over from this very holder;
-- no row means that another replica holds it. Waits for a store in flight.
-- Caller: a standby, every few seconds.
INSERT INTO ops_worker_lease AS l (name, holder, epoch, acquired_at, expires_at)
VALUES (@name, @holder, 1, clock_timestamp(), clock_timestamp() + make_interval(secs => @ttl_seconds::float8))
ON CONFLICT (name) DO UPDATE
SET holder = EXCLUDED.holder,
    epoch = l.epoch + 1,
    acquired_at = clock_timestamp(),
    expires_at = clock_timestamp() + make_interval(secs => @ttl_seconds::float8)
WHERE l.expires_at <= clock_timestamp() OR l.holder = EXCLUDED.holder
RETURNING epoch, last_cycle_at, clock_timestamp()::timestamptz AS now;

-- name: HoldLease :one
-- The fence: locks the lease to the end of the transaction while it is still
-- this holder's. No row: write nothing. A take-over waits for this lock; the
-- holder's own stores and renewals, which change no key, do not, however long
-- the transaction waits for a table of the platform.
SELECT epoch
FROM ops_worker_lease
WHERE name = @name AND holder = @holder AND epoch = @epoch AND expires_at > clock_timestamp()
FOR KEY SHARE;

-- name: LockLease :execrows
-- Before a take-over, in its transaction: waits for every write of the holder.
SELECT FROM ops_worker_lease WHERE name = @name FOR UPDATE;

-- name: ReadLease :one
-- Who collects, for `doctor` and for a standby's log.
SELECT holder, epoch, acquired_at, expires_at, last_cycle_at,
       (expires_at > clock_timestamp())::boolean AS held,
       clock_timestamp()::timestamptz AS now
FROM ops_worker_lease
WHERE name = @name;

-- name: ReleaseLease :execrows
-- Hands the lease back at shutdown, so that a standby need not wait for it to
-- expire. Without a holder it is free, and not merely overdue.
UPDATE ops_worker_lease
SET holder = '', expires_at = clock_timestamp()
WHERE name = @name AND holder = @holder AND epoch = @epoch;

-- name: RenewLease :one
-- Extends a lease that has not expired; no row means that it is lost. Returns
-- the database's clock, which the samples are stamped by.
UPDATE ops_worker_lease
SET expires_at = clock_timestamp() + make_interval(secs => @ttl_seconds::float8)
WHERE name = @name AND holder = @holder AND epoch = @epoch AND expires_at > clock_timestamp()
RETURNING clock_timestamp()::timestamptz AS now;

-- name: TouchLease :execrows
-- Changes nothing, but fails where the database refuses writes. Caller: a
-- standby that has seen the database in trouble, before it trusts it again.
UPDATE ops_worker_lease
SET name = name
WHERE name = @name;

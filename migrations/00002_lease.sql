-- One row that says which replica collects. A row, because nothing that needs a
-- session survives PgBouncer in transaction mode; the database's clock, because
-- the replicas' clocks differ.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS public.ops_worker_lease (
    name           text PRIMARY KEY,
    -- Which process, and how many times the lease has changed hands: together
    -- they are the fencing token that every write carries.
    holder         text NOT NULL,
    epoch          bigint NOT NULL,
    acquired_at    timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    -- How long the holder takes it for. What lies further ahead than that was
    -- written by a clock that was wrong, and is not held.
    ttl            interval NOT NULL,
    -- Who held it before it was handed back.
    last_holder    text NOT NULL DEFAULT '',
    -- How often the holder collects; zero is unknown.
    cycle_interval interval NOT NULL DEFAULT '0',
    -- The time of the newest stored cycle, moved in the transaction that stores
    -- it: a cycle is appended once however often it is sent, and never behind
    -- one that stands already.
    last_cycle_at  timestamptz NOT NULL DEFAULT 'epoch'
);

-- +goose Down
SET LOCAL lock_timeout = '5s';

DROP TABLE IF EXISTS public.ops_worker_lease;

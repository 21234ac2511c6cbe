-- The lease of a database that an earlier commit prepared lacks columns that 00002
-- has by now. Only what is missing is added: to look whether a column stands takes
-- no lock on the table.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('public.ops_worker_lease') AND attname = 'ttl') THEN
        -- Whoever holds it renews it without a ttl: a day covers what any holder takes it for.
        ALTER TABLE IF EXISTS public.ops_worker_lease ADD COLUMN ttl interval NOT NULL DEFAULT '1 day';
        ALTER TABLE IF EXISTS public.ops_worker_lease ALTER COLUMN ttl DROP DEFAULT;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('public.ops_worker_lease') AND attname = 'last_holder') THEN
        ALTER TABLE IF EXISTS public.ops_worker_lease ADD COLUMN last_holder text NOT NULL DEFAULT '';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('public.ops_worker_lease') AND attname = 'cycle_interval') THEN
        ALTER TABLE IF EXISTS public.ops_worker_lease ADD COLUMN cycle_interval interval NOT NULL DEFAULT '0';
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose Down
-- The columns stay, since what 00002 makes has them. These functions are those of the
-- earliest commits; Up leaves them to whoever goes back to one.
SET LOCAL lock_timeout = '5s';

DROP FUNCTION IF EXISTS public.ops_worker_drop_chunks(timestamptz);
DROP FUNCTION IF EXISTS public.ops_worker_retention_mode();
DROP FUNCTION IF EXISTS public.ops_worker_ensure_operator_role();
DROP FUNCTION IF EXISTS public.ops_worker_ensure_platform(integer);
DROP FUNCTION IF EXISTS public.ops_worker_is_hypertable(text);

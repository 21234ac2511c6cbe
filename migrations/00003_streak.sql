-- How long each service has been well, or has not: what the alerts count by
-- (ALERT_AFTER_FAILURES, ALERT_AFTER_SUCCESSES), whichever replica checks, and
-- what `status` shows as "since". service_health cannot hold it: its columns are
-- the platform's.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS public.ops_worker_streak (
    service    text PRIMARY KEY,
    healthy    boolean NOT NULL,
    since      timestamptz NOT NULL,
    -- How many checks in a row found that.
    checks     integer NOT NULL,
    -- The check that was counted last, so that none counts twice.
    checked_at timestamptz NOT NULL
);

-- +goose Down
SET LOCAL lock_timeout = '5s';

DROP TABLE IF EXISTS public.ops_worker_streak;

-- What the worker writes and the platform's system routes read.
-- The platform's own migrator makes the same objects: nothing here fails on
-- finding them, and it accepts these. Where it has not run yet, the worker leaves
-- a mark for it first (db/settle.go).

-- +goose Up
SET LOCAL lock_timeout = '5s'; -- rather than make everybody else wait behind it

CREATE TABLE IF NOT EXISTS public.service_health (
    service    text PRIMARY KEY,
    status     text NOT NULL,
    latency_ms integer,
    details    jsonb NOT NULL DEFAULT '{}',
    checked_at timestamptz NOT NULL DEFAULT now()
);

-- No key: on TimescaleDB this becomes a hypertable, and a sample's identity is
-- kept by the lease's last_cycle_at instead.
CREATE TABLE IF NOT EXISTS public.system_metrics (
    time        timestamptz NOT NULL,
    metric_name text NOT NULL,
    service     text,
    tags        jsonb DEFAULT '{}',
    value       double precision NOT NULL
);

CREATE INDEX IF NOT EXISTS idx_system_metrics_name_time
    ON public.system_metrics (metric_name, time DESC);
CREATE INDEX IF NOT EXISTS idx_system_metrics_service_time
    ON public.system_metrics (service, time DESC) WHERE service IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_system_metrics_name_service_time
    ON public.system_metrics (metric_name, service, time DESC);

-- Guarded rather than OR REPLACE: a view that stands already is the platform's.
-- +goose StatementBegin
DO $$
BEGIN
    IF to_regclass('public.system_metrics_latest') IS NULL THEN
        CREATE VIEW public.system_metrics_latest AS
        SELECT DISTINCT ON (metric_name, service) time, metric_name, service, value, tags
        FROM public.system_metrics
        ORDER BY metric_name, service, time DESC;
    END IF;
    IF to_regclass('public.system_metrics_recent') IS NULL THEN
        CREATE VIEW public.system_metrics_recent AS
        SELECT metric_name,
               service,
               avg(value) AS avg_value,
               max(value) AS max_value,
               min(value) AS min_value,
               count(*)   AS sample_count
        FROM public.system_metrics
        WHERE time > now() - interval '5 minutes'
        GROUP BY metric_name, service;
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose Down
SET LOCAL lock_timeout = '5s';

-- Without CASCADE: what the platform has built on these tables (a continuous
-- aggregate, for one) is not ours to drop, and stops this migration instead.
DROP VIEW IF EXISTS public.system_metrics_recent;
DROP VIEW IF EXISTS public.system_metrics_latest;
DROP TABLE IF EXISTS public.system_metrics;
DROP TABLE IF EXISTS public.service_health;

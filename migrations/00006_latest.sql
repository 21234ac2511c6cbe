-- What every viewer's page asks every 15 s, /metrics/latest, reads the newest value of each
-- series out of all rows that are kept: with value in the index, and its pages known to be
-- visible, it reads the index alone. Only of an empty table, which TimescaleDB does not
-- manage or is about to: an index of a full one takes its time, and docs/performance.md has
-- the statements.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = 'public.system_metrics'::regclass AND pg_has_role(c.relowner, 'USAGE'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')
       AND NOT EXISTS (SELECT FROM public.system_metrics) THEN
        DROP INDEX IF EXISTS public.idx_system_metrics_name_service_time;
        CREATE INDEX idx_system_metrics_name_service_time
            ON public.system_metrics (metric_name, service, time DESC) INCLUDE (value);
        ALTER TABLE public.system_metrics SET (
            autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
            autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose Down
SET LOCAL lock_timeout = '5s';

-- The index serves as the one before it did, and the table may be full by now.
ALTER TABLE public.system_metrics RESET (
    autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_insert_threshold,
    autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);

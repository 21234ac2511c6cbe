-- What every viewer's page asks every 15 s, /metrics/latest, reads the newest value of each
-- series out of all rows that are kept: with value in the index, and its pages known to be
-- visible, it reads the index alone. Only of an ordinary table of ours that is empty, where
-- TimescaleDB does not manage it or is about to: an index of a full one takes its time, and
-- docs/performance.md has the statements. Where the table is locked, it is left as it is.

-- +goose Up
SET LOCAL lock_timeout = '5s';

-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
        WHERE c.oid = to_regclass('public.system_metrics') AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE')
          AND i.indexrelid = to_regclass('public.idx_system_metrics_name_service_time')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')) THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM public.system_metrics) THEN
        RETURN;
    END IF;
    DROP INDEX public.idx_system_metrics_name_service_time;
    CREATE INDEX idx_system_metrics_name_service_time
        ON public.system_metrics (metric_name, service, time DESC) INCLUDE (value);
    ALTER TABLE public.system_metrics SET (
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 10000,
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000);
EXCEPTION
    WHEN lock_not_available THEN NULL;
END
$$;
-- +goose StatementEnd

-- +goose Down
SET LOCAL lock_timeout = '5s';

-- The settings, where they are still those of above. The index serves as the one before it
-- did, and the table may be full by now.
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_class c
        WHERE c.oid = to_regclass('public.system_metrics') AND pg_has_role(c.relowner, 'USAGE')
          AND c.reloptions @> ARRAY['autovacuum_vacuum_insert_scale_factor=0', 'autovacuum_vacuum_insert_threshold=10000',
              'autovacuum_vacuum_scale_factor=0', 'autovacuum_vacuum_threshold=50000']) THEN
        ALTER TABLE public.system_metrics RESET (
            autovacuum_vacuum_insert_scale_factor, autovacuum_vacuum_insert_threshold,
            autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
    END IF;
END
$$;
-- +goose StatementEnd

-- The names of the series in system_metrics, by one step each through
-- (metric_name, time DESC): however many rows there are, it reads one a name.

-- +goose Up
SET LOCAL lock_timeout = '5s';

CREATE OR REPLACE VIEW public.ops_worker_series AS
WITH RECURSIVE names AS (
    (SELECT m.metric_name FROM public.system_metrics m ORDER BY m.metric_name LIMIT 1)
    UNION ALL
    SELECT (SELECT m.metric_name FROM public.system_metrics m WHERE m.metric_name > n.metric_name ORDER BY m.metric_name LIMIT 1)
    FROM names n
    WHERE n.metric_name IS NOT NULL
)
SELECT n.metric_name
FROM names n
WHERE n.metric_name IS NOT NULL;

-- +goose Down
SET LOCAL lock_timeout = '5s';

DROP VIEW IF EXISTS public.ops_worker_series;

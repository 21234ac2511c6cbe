-- What telling people of alerts, and counting a service's availability, need besides
-- fleet_alert: which alerts somebody has been told of, since when each service has been
-- watched, and the alerts as incidents.

-- +goose Up
SET LOCAL lock_timeout = '5s';
-- The function below names a table of the platform, which may not stand yet.
SET LOCAL check_function_bodies = off;

-- An alert from its opening until its closing has been told.
CREATE TABLE IF NOT EXISTS public.ops_worker_message (
    fingerprint  text NOT NULL,
    opened_at    timestamptz NOT NULL,
    opening_told boolean NOT NULL DEFAULT false,
    PRIMARY KEY (fingerprint, opened_at)
);

-- The spans in which a service was checked, and an alert would have opened. Between two
-- of them no worker ran, or system alerts were off.
CREATE TABLE IF NOT EXISTS public.ops_worker_watch (
    service  text NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    PRIMARY KEY (service, began_at)
);

-- A function, whose body binds no column: a view on fleet_alert itself would keep the
-- platform's migrations from changing it, or from dropping it.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION public.ops_worker_list_incidents()
RETURNS TABLE (service text, started_at timestamptz, ended_at timestamptz, duration interval, reason text, acknowledged boolean)
LANGUAGE sql STABLE
AS $$
    SELECT substr(a.fingerprint, 15),
           a.created_at,
           e.ended_at,
           coalesce(e.ended_at, now()) - a.created_at,
           coalesce(a.details ->> 'reason', substring(a.summary FROM '\((.*)\)$'), ''),
           a.status = 'ACKNOWLEDGED' OR to_jsonb(a) ->> 'acknowledged_at' IS NOT NULL
    FROM public.fleet_alert a
    -- Of one that was closed by hand without a time nobody knows how long it was.
    CROSS JOIN LATERAL (
        SELECT CASE WHEN a.status NOT IN ('OPEN', 'ACKNOWLEDGED') THEN coalesce(a.closed_at, a.created_at) END AS ended_at
    ) e
    WHERE a.tenant_id = '__system__' AND a.fingerprint LIKE 'system-health:%'
$$;
-- +goose StatementEnd

-- The times at which a service was ill, by the system alerts; ended_at is NULL of one
-- that is. A reader needs SELECT on fleet_alert, past its row-level security.
CREATE OR REPLACE VIEW public.ops_worker_incidents AS
SELECT i.service, i.started_at, i.ended_at, i.duration, i.reason, i.acknowledged
FROM public.ops_worker_list_incidents() AS i (service, started_at, ended_at, duration, reason, acknowledged);

-- +goose Down
SET LOCAL lock_timeout = '5s';

DROP VIEW IF EXISTS public.ops_worker_incidents;
DROP FUNCTION IF EXISTS public.ops_worker_list_incidents();
DROP TABLE IF EXISTS public.ops_worker_watch;
DROP TABLE IF EXISTS public.ops_worker_message;

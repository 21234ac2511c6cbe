CREATE TABLE delivery_jobs (
    job_id           bigserial PRIMARY KEY,
    tenant_id        text NOT NULL,
    alert_id         bigint NOT NULL,
    integration_id   uuid NOT NULL,
    route_id         uuid NOT NULL,
    deliver_on_event text NOT NULL,
    status           text NOT NULL DEFAULT 'PENDING',
    attempts         integer NOT NULL DEFAULT 0,
    next_run_at      timestamptz NOT NULL DEFAULT now(),
    last_error       text,
    payload_json     jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX delivery_jobs_pending_idx ON delivery_jobs (next_run_at, job_id) WHERE status = 'PENDING';
CREATE INDEX delivery_jobs_tenant_status_idx ON delivery_jobs (tenant_id, status, created_at DESC);

CREATE TABLE telemetry (
    time      timestamptz NOT NULL,
    tenant_id text NOT NULL,
    device_id text NOT NULL,
    site_id   text,
    msg_type  text NOT NULL DEFAULT 'telemetry',
    seq       bigint NOT NULL DEFAULT 0,
    metrics   jsonb NOT NULL DEFAULT '{}'
);

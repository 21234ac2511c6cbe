CREATE TABLE quarantine_events (
    id          bigserial PRIMARY KEY,
    ingested_at timestamptz NOT NULL DEFAULT now(),
    event_ts    timestamptz,
    topic       text NOT NULL,
    tenant_id   text,
    site_id     text,
    device_id   text,
    msg_type    text,
    reason      text NOT NULL,
    payload     jsonb
);

CREATE INDEX idx_quarantine_ingested ON quarantine_events (ingested_at DESC);

CREATE TABLE fleet_alert (
    id          bigserial PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now(),
    closed_at   timestamptz,
    tenant_id   text NOT NULL,
    site_id     text NOT NULL,
    device_id   text NOT NULL,
    alert_type  text NOT NULL,
    fingerprint text NOT NULL DEFAULT '',
    status      text NOT NULL DEFAULT 'OPEN',
    severity    integer NOT NULL DEFAULT 0,
    confidence  real NOT NULL DEFAULT 0,
    summary     text NOT NULL,
    details     jsonb NOT NULL DEFAULT '{}'
);

-- Later releases of the platform make it span ACKNOWLEDGED too.
CREATE UNIQUE INDEX idx_fleet_alert_open_uq ON fleet_alert (tenant_id, fingerprint) WHERE status = 'OPEN';
CREATE INDEX idx_fleet_alert_tenant ON fleet_alert (tenant_id, status);
CREATE INDEX idx_fleet_alert_created ON fleet_alert (created_at DESC);

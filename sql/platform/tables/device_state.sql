CREATE TABLE device_state (
    tenant_id            text NOT NULL,
    device_id            text NOT NULL,
    site_id              text NOT NULL,
    status               text NOT NULL DEFAULT 'OFFLINE',
    last_heartbeat_at    timestamptz,
    last_telemetry_at    timestamptz,
    last_seen_at         timestamptz,
    last_state_change_at timestamptz NOT NULL DEFAULT now(),
    state                jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, device_id)
);

CREATE INDEX idx_device_state_status ON device_state (tenant_id, status);

CREATE TABLE device_registry (
    tenant_id            text NOT NULL,
    device_id            text NOT NULL,
    site_id              text NOT NULL,
    status               text NOT NULL DEFAULT 'ACTIVE',
    provision_token      text,
    provision_token_hash text,
    created_at           timestamptz NOT NULL DEFAULT now(),
    updated_at           timestamptz NOT NULL DEFAULT now(),
    metadata             jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, device_id)
);

CREATE INDEX idx_device_registry_status ON device_registry (tenant_id, status);

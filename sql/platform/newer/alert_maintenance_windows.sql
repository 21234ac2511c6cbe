-- While a window of a tenant is on, no alert of that tenant opens. The worker reads and
-- writes those of the tenant __system__ alone.
CREATE TABLE alert_maintenance_windows (
    tenant_id    text NOT NULL REFERENCES tenants (tenant_id),
    window_id    text NOT NULL DEFAULT gen_random_uuid()::text,
    name         text NOT NULL,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz, -- null: open end
    recurring    jsonb, -- {"dow": [0, 6], "start_hour": 2, "end_hour": 4}
    site_ids     text[],
    device_types text[], -- of the tenant __system__: services
    enabled      boolean NOT NULL DEFAULT true,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, window_id)
);

ALTER TABLE alert_maintenance_windows ENABLE ROW LEVEL SECURITY;
ALTER TABLE alert_maintenance_windows FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON alert_maintenance_windows USING (tenant_id = current_setting('app.tenant_id', true));

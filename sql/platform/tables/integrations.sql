CREATE TABLE integrations (
    tenant_id      text NOT NULL,
    integration_id uuid NOT NULL DEFAULT gen_random_uuid(),
    name           text NOT NULL,
    type           text NOT NULL DEFAULT 'webhook',
    enabled        boolean NOT NULL DEFAULT true,
    config_json    jsonb NOT NULL DEFAULT '{}',
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, integration_id)
);

CREATE TABLE tenants (
    tenant_id     text PRIMARY KEY,
    name          text NOT NULL,
    status        text NOT NULL DEFAULT 'ACTIVE',
    contact_email text,
    contact_name  text,
    plan          text DEFAULT 'standard',
    max_devices   integer DEFAULT 100,
    max_rules     integer DEFAULT 50,
    metadata      jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz
);

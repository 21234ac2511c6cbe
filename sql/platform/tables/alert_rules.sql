CREATE TABLE alert_rules (
    id          serial PRIMARY KEY,
    tenant_id   text NOT NULL,
    name        text NOT NULL,
    description text,
    enabled     boolean NOT NULL DEFAULT true,
    rule_type   text NOT NULL DEFAULT 'threshold',
    conditions  jsonb NOT NULL DEFAULT '{}',
    actions     jsonb NOT NULL DEFAULT '[]',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

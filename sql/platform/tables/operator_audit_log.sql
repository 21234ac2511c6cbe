CREATE TABLE operator_audit_log (
    id            bigserial PRIMARY KEY,
    user_id       text NOT NULL,
    action        text NOT NULL,
    tenant_filter text,
    resource_type text,
    resource_id   text,
    ip_address    inet,
    user_agent    text,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX operator_audit_log_created_idx ON operator_audit_log (created_at DESC);

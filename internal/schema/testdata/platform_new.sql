-- A newer release of the platform: row-level security forced, notifications in
-- place of integrations and deliveries, foreign keys, triggers, further columns.
DO $$ BEGIN CREATE ROLE pulse_operator NOLOGIN BYPASSRLS; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE pulse_app NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;

CREATE TABLE tenants (
    tenant_id text PRIMARY KEY, name text NOT NULL, status text NOT NULL DEFAULT 'ACTIVE', contact_email text, contact_name text,
    plan text DEFAULT 'standard', max_devices integer DEFAULT 100, max_rules integer DEFAULT 50, metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz, region text
);
CREATE TABLE device_registry (
    tenant_id text NOT NULL REFERENCES tenants, device_id text NOT NULL, site_id text NOT NULL, status text NOT NULL DEFAULT 'ACTIVE',
    provision_token text, provision_token_hash text, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    metadata jsonb NOT NULL DEFAULT '{}', device_type text, PRIMARY KEY (tenant_id, device_id)
);
CREATE TABLE device_state (
    tenant_id text NOT NULL, device_id text NOT NULL, site_id text NOT NULL, status text NOT NULL DEFAULT 'OFFLINE',
    last_heartbeat_at timestamptz, last_telemetry_at timestamptz, last_seen_at timestamptz,
    last_state_change_at timestamptz NOT NULL DEFAULT now(), state jsonb NOT NULL DEFAULT '{}', PRIMARY KEY (tenant_id, device_id)
);
CREATE TABLE fleet_alert (
    id bigserial PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now(), closed_at timestamptz,
    tenant_id text NOT NULL REFERENCES tenants, site_id text NOT NULL, device_id text NOT NULL, alert_type text NOT NULL,
    fingerprint text NOT NULL DEFAULT '', status text NOT NULL DEFAULT 'OPEN', severity integer NOT NULL DEFAULT 0,
    confidence real NOT NULL DEFAULT 0, summary text NOT NULL, details jsonb NOT NULL DEFAULT '{}',
    acknowledged_by text, acknowledged_at timestamptz
);
CREATE UNIQUE INDEX idx_fleet_alert_open_uq ON fleet_alert (tenant_id, fingerprint) WHERE status IN ('OPEN', 'ACKNOWLEDGED');
CREATE TABLE alert_rules (
    id serial PRIMARY KEY, tenant_id text NOT NULL, name text NOT NULL, description text, enabled boolean NOT NULL DEFAULT true,
    rule_type text NOT NULL DEFAULT 'threshold', conditions jsonb NOT NULL DEFAULT '{}', actions jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE notification_channels (
    channel_id serial PRIMARY KEY, tenant_id text NOT NULL, name text NOT NULL, channel_type text NOT NULL, config jsonb NOT NULL DEFAULT '{}',
    is_enabled boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE notification_jobs (
    job_id bigserial PRIMARY KEY, tenant_id text NOT NULL, alert_id bigint NOT NULL, channel_id integer NOT NULL, rule_id integer,
    deliver_on_event text NOT NULL DEFAULT 'OPEN', status text NOT NULL DEFAULT 'PENDING', attempts integer NOT NULL DEFAULT 0,
    next_run_at timestamptz NOT NULL DEFAULT now(), last_error text, payload_json jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE quarantine_events (
    id bigserial PRIMARY KEY, ingested_at timestamptz NOT NULL DEFAULT now(), event_ts timestamptz, topic text NOT NULL,
    tenant_id text, site_id text, device_id text, msg_type text, reason text NOT NULL, payload jsonb
);
CREATE TABLE operator_audit_log (
    id bigserial PRIMARY KEY, user_id text NOT NULL, action text NOT NULL, tenant_filter text, resource_type text, resource_id text,
    ip_address inet, user_agent text, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE telemetry (
    time timestamptz NOT NULL, tenant_id text NOT NULL, device_id text NOT NULL, site_id text, msg_type text NOT NULL DEFAULT 'telemetry',
    seq bigint NOT NULL DEFAULT 0, metrics jsonb NOT NULL DEFAULT '{}'
);

CREATE FUNCTION notify_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('platform', TG_TABLE_NAME); RETURN NEW; END $$;
CREATE TRIGGER fleet_alert_notify AFTER INSERT OR UPDATE ON fleet_alert FOR EACH ROW EXECUTE FUNCTION notify_change();
CREATE TRIGGER device_state_notify AFTER INSERT OR UPDATE ON device_state FOR EACH ROW EXECUTE FUNCTION notify_change();

DO $$
DECLARE relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['device_state', 'fleet_alert', 'alert_rules', 'notification_channels', 'notification_jobs'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', relation);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', relation);
        EXECUTE format($policy$ CREATE POLICY tenant ON %I USING (tenant_id = current_setting('app.tenant_id', true)) $policy$, relation);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO pulse_app', relation);
    END LOOP;
END $$;

INSERT INTO tenants (tenant_id, name) VALUES ('t1', 'One'), ('t2', 'Two');
INSERT INTO device_registry (tenant_id, device_id, site_id) VALUES ('t1', 'd1', 's'), ('t1', 'd2', 's'), ('t2', 'd1', 's');
INSERT INTO device_state (tenant_id, device_id, site_id, status) VALUES ('t1', 'd1', 's', 'ONLINE'), ('t1', 'd2', 's', 'STALE'), ('t2', 'd1', 's', 'ONLINE');
INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, summary) VALUES ('t1', 's', 'd1', 'X', 'f', 'x');
INSERT INTO notification_channels (tenant_id, name, channel_type, is_enabled) VALUES
    ('t1', 'hook', 'webhook', true), ('t1', 'mail', 'email', false), ('t2', 'pager', 'pagerduty', true);
INSERT INTO notification_jobs (tenant_id, alert_id, channel_id, status, attempts, last_error) VALUES
    ('t1', 1, 1, 'PENDING', 0, NULL), ('t1', 1, 1, 'PENDING', 0, NULL), ('t1', 1, 2, 'FAILED', 5, 'refused'),
    ('t2', 1, 3, 'COMPLETED', 1, NULL), ('t2', 1, 3, 'PROCESSING', 1, NULL);

-- The platform's tables that our queries touch, in their first form, as sqlc
-- must see them. The worker never runs this file: ops_worker_ensure_platform
-- makes the tables where they are missing, and a test compares the two.

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

CREATE TABLE delivery_jobs (
    job_id           bigserial PRIMARY KEY,
    tenant_id        text NOT NULL,
    alert_id         bigint NOT NULL,
    integration_id   uuid NOT NULL,
    route_id         uuid NOT NULL,
    deliver_on_event text NOT NULL,
    status           text NOT NULL DEFAULT 'PENDING',
    attempts         integer NOT NULL DEFAULT 0,
    next_run_at      timestamptz NOT NULL DEFAULT now(),
    last_error       text,
    payload_json     jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- The platform's system routes read tables and a role that another migrator
-- owns, drops and renames. A function makes sure of them, so that the worker
-- can call it at every start and not only when a migration of ours is new.
-- It creates what is missing and never drops or alters what the platform made.

-- +goose Up

-- ops_worker_ensure_platform returns a row for each thing that it did
-- ('created') or could not do ('failed', with the reason in detail). server_version is a parameter for its tests.
-- +goose StatementBegin
CREATE FUNCTION ops_worker_ensure_platform(
    server_version integer DEFAULT current_setting('server_version_num')::integer
) RETURNS TABLE (object text, action text, detail text)
LANGUAGE plpgsql AS $function$
DECLARE
    mark CONSTANT text := 'created by ops_worker in its first form; the platform may replace it';
    -- Our own, should they have been dropped since their migration.
    own CONSTANT text[][] := ARRAY[
        ['service_health', $ddl$ CREATE TABLE service_health (
            service text PRIMARY KEY,
            status text NOT NULL,
            latency_ms integer,
            details jsonb NOT NULL DEFAULT '{}',
            checked_at timestamptz NOT NULL DEFAULT now()) $ddl$],
        ['system_metrics', $ddl$ CREATE TABLE system_metrics (
            time timestamptz NOT NULL,
            metric_name text NOT NULL,
            service text,
            tags jsonb DEFAULT '{}',
            value double precision NOT NULL) $ddl$],
        ['idx_system_metrics_name_time', $ddl$ CREATE INDEX idx_system_metrics_name_time
            ON system_metrics (metric_name, time DESC) $ddl$],
        ['idx_system_metrics_service_time', $ddl$ CREATE INDEX idx_system_metrics_service_time
            ON system_metrics (service, time DESC) WHERE service IS NOT NULL $ddl$],
        ['idx_system_metrics_name_service_time', $ddl$ CREATE INDEX idx_system_metrics_name_service_time
            ON system_metrics (metric_name, service, time DESC) $ddl$],
        ['system_metrics_latest', $ddl$ CREATE VIEW system_metrics_latest AS
            SELECT DISTINCT ON (metric_name, service) time, metric_name, service, value, tags
            FROM system_metrics
            ORDER BY metric_name, service, time DESC $ddl$],
        ['system_metrics_recent', $ddl$ CREATE VIEW system_metrics_recent AS
            SELECT metric_name, service, avg(value) AS avg_value, max(value) AS max_value, min(value) AS min_value,
                   count(*) AS sample_count
            FROM system_metrics
            WHERE time > now() - interval '5 minutes'
            GROUP BY metric_name, service $ddl$],
        ['ops_worker_lease', $ddl$ CREATE TABLE ops_worker_lease (
            name text PRIMARY KEY,
            holder text NOT NULL,
            epoch bigint NOT NULL,
            acquired_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            last_cycle_at timestamptz NOT NULL DEFAULT 'epoch') $ddl$]
    ];
    first_form CONSTANT text[][] := ARRAY[
        ['tenants', $ddl$
            tenant_id text PRIMARY KEY,
            name text NOT NULL,
            status text NOT NULL DEFAULT 'ACTIVE',
            contact_email text,
            contact_name text,
            plan text DEFAULT 'standard',
            max_devices integer DEFAULT 100,
            max_rules integer DEFAULT 50,
            metadata jsonb NOT NULL DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            deleted_at timestamptz $ddl$],
        ['device_registry', $ddl$
            tenant_id text NOT NULL,
            device_id text NOT NULL,
            site_id text NOT NULL,
            status text NOT NULL DEFAULT 'ACTIVE',
            provision_token text,
            provision_token_hash text,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            metadata jsonb NOT NULL DEFAULT '{}',
            PRIMARY KEY (tenant_id, device_id) $ddl$],
        ['device_state', $ddl$
            tenant_id text NOT NULL,
            device_id text NOT NULL,
            site_id text NOT NULL,
            status text NOT NULL DEFAULT 'OFFLINE',
            last_heartbeat_at timestamptz,
            last_telemetry_at timestamptz,
            last_seen_at timestamptz,
            last_state_change_at timestamptz NOT NULL DEFAULT now(),
            state jsonb NOT NULL DEFAULT '{}',
            PRIMARY KEY (tenant_id, device_id) $ddl$],
        ['fleet_alert', $ddl$
            id bigserial PRIMARY KEY,
            created_at timestamptz NOT NULL DEFAULT now(),
            closed_at timestamptz,
            tenant_id text NOT NULL,
            site_id text NOT NULL,
            device_id text NOT NULL,
            alert_type text NOT NULL,
            fingerprint text NOT NULL DEFAULT '',
            status text NOT NULL DEFAULT 'OPEN',
            severity integer NOT NULL DEFAULT 0,
            confidence real NOT NULL DEFAULT 0,
            summary text NOT NULL,
            details jsonb NOT NULL DEFAULT '{}' $ddl$],
        ['alert_rules', $ddl$
            id serial PRIMARY KEY,
            tenant_id text NOT NULL,
            name text NOT NULL,
            description text,
            enabled boolean NOT NULL DEFAULT true,
            rule_type text NOT NULL DEFAULT 'threshold',
            conditions jsonb NOT NULL DEFAULT '{}',
            actions jsonb NOT NULL DEFAULT '[]',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now() $ddl$],
        ['integrations', $ddl$
            tenant_id text NOT NULL,
            integration_id uuid NOT NULL DEFAULT gen_random_uuid(),
            name text NOT NULL,
            type text NOT NULL DEFAULT 'webhook',
            enabled boolean NOT NULL DEFAULT true,
            config_json jsonb NOT NULL DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (tenant_id, integration_id) $ddl$],
        ['delivery_jobs', $ddl$
            job_id bigserial PRIMARY KEY,
            tenant_id text NOT NULL,
            alert_id bigint NOT NULL,
            integration_id uuid NOT NULL,
            route_id uuid NOT NULL,
            deliver_on_event text NOT NULL,
            status text NOT NULL DEFAULT 'PENDING',
            attempts integer NOT NULL DEFAULT 0,
            next_run_at timestamptz NOT NULL DEFAULT now(),
            last_error text,
            payload_json jsonb NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now() $ddl$],
        ['quarantine_events', $ddl$
            id bigserial PRIMARY KEY,
            ingested_at timestamptz NOT NULL DEFAULT now(),
            event_ts timestamptz,
            topic text NOT NULL,
            tenant_id text,
            site_id text,
            device_id text,
            msg_type text,
            reason text NOT NULL,
            payload jsonb $ddl$],
        ['operator_audit_log', $ddl$
            id bigserial PRIMARY KEY,
            user_id text NOT NULL,
            action text NOT NULL,
            tenant_filter text,
            resource_type text,
            resource_id text,
            ip_address inet,
            user_agent text,
            created_at timestamptz NOT NULL DEFAULT now() $ddl$],
        ['telemetry', $ddl$
            time timestamptz NOT NULL,
            tenant_id text NOT NULL,
            device_id text NOT NULL,
            site_id text,
            msg_type text NOT NULL DEFAULT 'telemetry',
            seq bigint NOT NULL DEFAULT 0,
            metrics jsonb NOT NULL DEFAULT '{}' $ddl$]
    ];
    -- What stands in for a dropped table, over what the platform keeps instead.
    -- A channel's number becomes a uuid, since that is what the column was: the
    -- same one in both views, so that they still join.
    stand_ins CONSTANT text[][] := ARRAY[
        ['integrations', 'notification_channels', $view$
            SELECT tenant_id,
                   lpad(to_hex(channel_id), 32, '0')::uuid AS integration_id,
                   name,
                   channel_type AS type,
                   is_enabled AS enabled,
                   config AS config_json,
                   created_at,
                   updated_at
            FROM notification_channels $view$],
        ['delivery_jobs', 'notification_jobs', $view$
            SELECT job_id,
                   tenant_id,
                   alert_id,
                   lpad(to_hex(channel_id), 32, '0')::uuid AS integration_id,
                   NULL::uuid AS route_id,
                   deliver_on_event,
                   status,
                   attempts,
                   next_run_at,
                   last_error,
                   payload_json,
                   created_at,
                   updated_at
            FROM notification_jobs $view$]
    ];
    entry text[];
    timescale boolean := EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb');
    made_telemetry boolean := false;
BEGIN
    -- Two replicas that start together take turns. Held by the transaction, so
    -- a pooler is no obstacle.
    PERFORM pg_advisory_xact_lock(hashtext('ops_worker_ensure_platform'));

    FOREACH entry SLICE 1 IN ARRAY own LOOP
        CONTINUE WHEN to_regclass(entry[1]) IS NOT NULL;
        BEGIN
            EXECUTE entry[2];
            object := entry[1]; action := 'created'; detail := 'again: it was dropped';
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            object := entry[1]; action := 'failed'; detail := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;

    -- A table that we made before the platform had its successor. It may be in
    -- use by now, so it is only named, never dropped.
    FOREACH entry SLICE 1 IN ARRAY stand_ins LOOP
        IF to_regclass(entry[2]) IS NOT NULL
           AND EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(entry[1]) AND relkind = 'r')
           AND obj_description(to_regclass(entry[1]), 'pg_class') = mark THEN
            object := entry[1]; action := 'failed';
            detail := format('a table that ops_worker made hides %s; if nothing uses it, DROP TABLE %I and restart', entry[2], entry[1]);
            RETURN NEXT;
        END IF;
    END LOOP;

    FOREACH entry SLICE 1 IN ARRAY stand_ins LOOP
        CONTINUE WHEN to_regclass(entry[1]) IS NOT NULL OR to_regclass(entry[2]) IS NULL;
        BEGIN
            IF server_version >= 150000 THEN
                -- The view shows each reader what the table itself would.
                EXECUTE format('CREATE VIEW %I WITH (security_invoker = true) AS %s', entry[1], entry[3]);
            ELSE
                -- An older server runs a view with its owner's rights, which
                -- would show every tenant's rows to whoever may read the view.
                -- So it belongs to the one role that sees them all anyway, and
                -- nobody else may read it.
                EXECUTE format('CREATE VIEW %I AS %s', entry[1], entry[3]);
                EXECUTE format('ALTER VIEW %I OWNER TO pulse_operator', entry[1]);
                EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', entry[1]);
                IF to_regrole('pulse_app') IS NOT NULL THEN
                    EXECUTE format('REVOKE ALL ON %I FROM pulse_app', entry[1]);
                END IF;
            END IF;
            EXECUTE format('COMMENT ON VIEW %I IS %L', entry[1], mark);
            object := entry[1]; action := 'created'; detail := 'view over ' || entry[2];
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            object := entry[1]; action := 'failed'; detail := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;

    FOREACH entry SLICE 1 IN ARRAY first_form LOOP
        CONTINUE WHEN to_regclass(entry[1]) IS NOT NULL;
        -- Its successor is there: an empty table would read as zero, silently.
        CONTINUE WHEN (entry[1] = 'integrations' AND to_regclass('notification_channels') IS NOT NULL)
                   OR (entry[1] = 'delivery_jobs' AND to_regclass('notification_jobs') IS NOT NULL);
        BEGIN
            EXECUTE format('CREATE TABLE %I (%s)', entry[1], entry[2]);
            EXECUTE format('COMMENT ON TABLE %I IS %L', entry[1], mark);
            IF entry[1] = 'fleet_alert' THEN
                CREATE UNIQUE INDEX idx_fleet_alert_open_uq
                    ON fleet_alert (tenant_id, fingerprint) WHERE status = 'OPEN';
            END IF;
            made_telemetry := made_telemetry OR entry[1] = 'telemetry';
            object := entry[1]; action := 'created'; detail := 'table';
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            object := entry[1]; action := 'failed'; detail := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;

    -- Hypertables and nothing more: the platform's migrator fails on finding a
    -- policy or a continuous aggregate. telemetry is the platform's, and is
    -- converted only in the moment that we make it.
    IF timescale THEN
        IF NOT ops_worker_is_hypertable('system_metrics') THEN
            BEGIN
                EXECUTE $sql$ SELECT create_hypertable('system_metrics', 'time',
                    chunk_time_interval => interval '1 hour', if_not_exists => true, migrate_data => true) $sql$;
                object := 'system_metrics'; action := 'created'; detail := 'hypertable';
                RETURN NEXT;
            EXCEPTION WHEN OTHERS THEN
                object := 'system_metrics'; action := 'failed'; detail := 'hypertable: ' || SQLERRM;
                RETURN NEXT;
            END;
        END IF;
        IF made_telemetry THEN
            BEGIN
                EXECUTE $sql$ SELECT create_hypertable('telemetry', 'time',
                    chunk_time_interval => interval '1 day', if_not_exists => true) $sql$;
                object := 'telemetry'; action := 'created'; detail := 'hypertable';
                RETURN NEXT;
            EXCEPTION WHEN OTHERS THEN
                object := 'telemetry'; action := 'failed'; detail := 'hypertable: ' || SQLERRM;
                RETURN NEXT;
            END;
        END IF;
    END IF;
END
$function$;
-- +goose StatementEnd

-- The role that the routes take on inside their transactions. Made only with
-- BYPASSRLS: without it they would count 0 rows under the policies, silently,
-- and the platform's migrator would find a role and leave it as it is.
-- +goose StatementBegin
CREATE FUNCTION ops_worker_ensure_operator_role() RETURNS TABLE (object text, action text, detail text)
LANGUAGE plpgsql AS $function$
DECLARE
    relation text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ops_worker_ensure_platform'));
    object := 'pulse_operator';
    IF to_regrole('pulse_operator') IS NULL THEN
        BEGIN
            CREATE ROLE pulse_operator NOLOGIN BYPASSRLS;
            EXECUTE format('GRANT pulse_operator TO %I', current_user);
            action := 'created'; detail := 'role';
            RETURN NEXT;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL; -- another database's worker was quicker
            WHEN OTHERS THEN
                action := 'failed'; detail := SQLERRM;
                RETURN NEXT;
                RETURN;
        END;
    END IF;

    FOREACH relation IN ARRAY ARRAY[
        'tenants', 'device_registry', 'device_state', 'fleet_alert', 'alert_rules', 'integrations', 'delivery_jobs',
        'notification_channels', 'notification_jobs', 'quarantine_events', 'operator_audit_log', 'rate_limit_events',
        'telemetry', 'service_health', 'system_metrics', 'system_metrics_latest', 'system_metrics_recent'] LOOP
        CONTINUE WHEN to_regclass(relation) IS NULL OR has_table_privilege('pulse_operator', to_regclass(relation), 'SELECT');
        object := relation;
        BEGIN
            EXECUTE format('GRANT SELECT ON %s TO pulse_operator', to_regclass(relation));
            -- GRANT without the right to grant is a warning, no error.
            IF has_table_privilege('pulse_operator', to_regclass(relation), 'SELECT') THEN
                action := 'granted'; detail := 'SELECT to pulse_operator';
            ELSE
                action := 'failed'; detail := format('GRANT SELECT ON %I TO pulse_operator: not ours to grant', relation);
            END IF;
            RETURN NEXT;
        EXCEPTION WHEN OTHERS THEN
            action := 'failed'; detail := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END
$function$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION ops_worker_is_hypertable(relation text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $function$
DECLARE
    found_it boolean := false;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
        EXECUTE $sql$ SELECT EXISTS (
            SELECT FROM timescaledb_information.hypertables h
            WHERE to_regclass(quote_ident(h.hypertable_schema) || '.' || quote_ident(h.hypertable_name)) = to_regclass($1)) $sql$
        INTO found_it USING relation;
    END IF;
    RETURN found_it;
END
$function$;
-- +goose StatementEnd

-- Who keeps system_metrics from growing: 'plain' (deletes by us), 'hypertable'
-- (drop_chunks by us) or 'policy' (TimescaleDB itself, and we leave it alone).
-- +goose StatementBegin
CREATE FUNCTION ops_worker_retention_mode() RETURNS text
LANGUAGE plpgsql STABLE AS $function$
DECLARE
    has_policy boolean;
BEGIN
    IF NOT ops_worker_is_hypertable('system_metrics') THEN
        RETURN 'plain';
    END IF;
    EXECUTE $sql$ SELECT EXISTS (
        SELECT FROM timescaledb_information.jobs j
        WHERE j.proc_name = 'policy_retention'
          -- NULL for the jobs of no hypertable, where format() would fail.
          AND to_regclass(quote_ident(j.hypertable_schema) || '.' || quote_ident(j.hypertable_name)) = to_regclass('system_metrics')) $sql$
    INTO has_policy;
    RETURN CASE WHEN has_policy THEN 'policy' ELSE 'hypertable' END;
END
$function$;
-- +goose StatementEnd

-- Drops the chunks of system_metrics that end before cutoff; returns how many.
-- +goose StatementBegin
CREATE FUNCTION ops_worker_drop_chunks(cutoff timestamptz) RETURNS bigint
LANGUAGE plpgsql AS $function$
DECLARE
    dropped bigint;
BEGIN
    EXECUTE $sql$ SELECT count(*) FROM drop_chunks('system_metrics', older_than => $1) $sql$ INTO dropped USING cutoff;
    RETURN dropped;
END
$function$;
-- +goose StatementEnd

-- +goose Down
-- The platform's tables stay, those that we made included: they may hold its
-- data by now. The views that stand in for dropped tables are ours.
-- +goose StatementBegin
DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['integrations', 'delivery_jobs'] LOOP
        IF EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(relation) AND relkind = 'v')
           AND obj_description(to_regclass(relation), 'pg_class') LIKE 'created by ops_worker%' THEN
            EXECUTE format('DROP VIEW %I', relation);
        END IF;
    END LOOP;
END
$$;
-- +goose StatementEnd
DROP FUNCTION ops_worker_drop_chunks(timestamptz);
DROP FUNCTION ops_worker_retention_mode();
DROP FUNCTION ops_worker_ensure_operator_role();
DROP FUNCTION ops_worker_ensure_platform(integer);
DROP FUNCTION ops_worker_is_hypertable(text);

-- A small fleet in the platform's tables as their first release has them. Every statement leaves alone what an earlier
-- run made.

INSERT INTO tenants (tenant_id, name, status)
VALUES ('demo-acme', 'Acme Cold Storage', 'ACTIVE'),
       ('demo-globex', 'Globex Water', 'ACTIVE'),
       ('demo-initech', 'Initech Offices', 'SUSPENDED'),
       ('demo-hooli', 'Hooli Farms', 'DELETED')
ON CONFLICT (tenant_id) DO NOTHING;

-- 200 devices on five sites; one in 25 is revoked and has no state.
INSERT INTO device_registry (tenant_id, device_id, site_id, status)
SELECT (ARRAY['demo-acme', 'demo-globex', 'demo-initech'])[1 + n % 3],
       format('demo-%s', lpad(n::text, 4, '0')),
       format('demo-site-%s', 1 + n % 5),
       CASE WHEN n % 25 = 0 THEN 'REVOKED' ELSE 'ACTIVE' END
FROM generate_series(1, 200) AS n
ON CONFLICT (tenant_id, device_id) DO NOTHING;

INSERT INTO device_state (tenant_id, device_id, site_id, status, last_heartbeat_at, last_telemetry_at, last_seen_at)
SELECT tenant_id, device_id, site_id, status, seen, seen, seen
FROM (SELECT tenant_id, device_id, site_id,
             CASE WHEN n % 10 < 7 THEN 'ONLINE' WHEN n % 10 < 9 THEN 'STALE' ELSE 'OFFLINE' END AS status,
             now() - CASE WHEN n % 10 < 7 THEN n % 30 * interval '1 second'
                          WHEN n % 10 < 9 THEN n % 30 * interval '1 minute'
                          ELSE n % 30 * interval '1 hour' END AS seen
      FROM (SELECT tenant_id, device_id, site_id, right(device_id, 4)::int AS n
            FROM device_registry
            WHERE device_id LIKE 'demo-%' AND status = 'ACTIVE') AS device) AS device
ON CONFLICT (tenant_id, device_id) DO NOTHING;

INSERT INTO fleet_alert (created_at, closed_at, tenant_id, site_id, device_id, alert_type, fingerprint, status, severity,
                         confidence, summary, details)
SELECT now() - n * interval '17 minutes',
       CASE WHEN n % 3 = 0 THEN now() - n * interval '11 minutes' END,
       device.tenant_id,
       device.site_id,
       device.device_id,
       'THRESHOLD',
       format('demo-temperature:%s', device.device_id),
       (ARRAY['CLOSED', 'OPEN', 'ACKNOWLEDGED'])[1 + n % 3],
       1 + n % 4,
       0.9,
       format('Temperature too high at %s', device.device_id),
       jsonb_build_object('metric', 'temp_c', 'value', 30 + n)
FROM (SELECT tenant_id, site_id, device_id, row_number() OVER (ORDER BY device_id) AS n
      FROM device_state
      WHERE device_id LIKE 'demo-%'
      ORDER BY device_id
      LIMIT 15) AS device
WHERE NOT EXISTS (SELECT FROM fleet_alert
                  WHERE fleet_alert.tenant_id = device.tenant_id
                    AND fingerprint = format('demo-temperature:%s', device.device_id));

INSERT INTO alert_rules (tenant_id, name, enabled, conditions)
SELECT tenant_id, name, enabled, '{"metric": "temp_c", "operator": "GT", "threshold": 30}'
FROM (VALUES ('demo-acme', 'demo: too warm', true),
             ('demo-acme', 'demo: too cold', false),
             ('demo-globex', 'demo: too warm', true)) AS rule (tenant_id, name, enabled)
WHERE NOT EXISTS (SELECT FROM alert_rules WHERE alert_rules.tenant_id = rule.tenant_id AND alert_rules.name = rule.name);

INSERT INTO integrations (tenant_id, integration_id, name, type, enabled, config_json)
VALUES ('demo-acme', '00000000-0000-4000-8000-000000000001', 'demo: webhook', 'webhook', true, '{"url": "https://example.com/hook"}'),
       ('demo-acme', '00000000-0000-4000-8000-000000000002', 'demo: mail', 'email', true, '{"to": ["ops@example.com"]}'),
       ('demo-globex', '00000000-0000-4000-8000-000000000003', 'demo: old webhook', 'webhook', false, '{"url": "https://example.com/old"}')
ON CONFLICT (tenant_id, integration_id) DO NOTHING;

INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, status, attempts, last_error,
                           payload_json, created_at)
SELECT 'demo-acme',
       (SELECT min(id) FROM fleet_alert WHERE tenant_id = 'demo-acme'),
       '00000000-0000-4000-8000-000000000001',
       '00000000-0000-4000-8000-0000000000ff',
       'OPEN',
       (ARRAY['PENDING', 'COMPLETED', 'COMPLETED', 'FAILED'])[1 + n % 4],
       n % 4,
       CASE WHEN n % 4 = 3 THEN 'HTTP 502 from the receiver' END,
       '{"demo": true}',
       now() - n * interval '2 minutes'
FROM generate_series(1, 20) AS n
WHERE NOT EXISTS (SELECT FROM delivery_jobs WHERE payload_json @> '{"demo": true}');

-- The last minute of telemetry: each device that is online every ten seconds.
INSERT INTO telemetry (time, tenant_id, device_id, site_id, seq, metrics)
SELECT now() - tick * interval '10 seconds', tenant_id, device_id, site_id, 6 - tick,
       jsonb_build_object('temp_c', 18 + tick + right(device_id, 1)::int)
FROM device_state, generate_series(0, 5) AS tick
WHERE status = 'ONLINE' AND device_id LIKE 'demo-%'
  AND NOT EXISTS (SELECT FROM telemetry
                  WHERE telemetry.device_id LIKE 'demo-%' AND telemetry.time > now() - interval '1 minute');

INSERT INTO service_health (service, status, latency_ms, details, checked_at)
VALUES ($1, $2, 1, '{}', clock_timestamp())
ON CONFLICT (service) DO UPDATE
SET status = EXCLUDED.status, latency_ms = EXCLUDED.latency_ms, details = EXCLUDED.details, checked_at = EXCLUDED.checked_at

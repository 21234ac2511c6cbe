-- What the routes read of delivery_jobs, and no more: every column of a view
-- keeps the platform from changing the column under it. A channel's number
-- becomes a uuid, since that is what the column was.
CREATE VIEW delivery_jobs AS
SELECT job_id,
       tenant_id,
       lpad(to_hex(channel_id), 32, '0')::uuid AS integration_id,
       status,
       attempts,
       last_error,
       created_at
FROM notification_jobs;

-- A hypertable and nothing more: the platform's migrator fails on finding a policy or
-- a continuous aggregate. The chunks are as long as the platform's.
SELECT @extschema@.create_hypertable('system_metrics', 'time',
    chunk_time_interval => interval '1 hour', if_not_exists => true);

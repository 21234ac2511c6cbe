-- A hypertable and nothing more: the platform's migrator fails on finding a
-- policy or a continuous aggregate. $1 is the length of the chunks.
SELECT @extschema@.create_hypertable('system_metrics', 'time',
    chunk_time_interval => $1::interval, if_not_exists => true, migrate_data => true);

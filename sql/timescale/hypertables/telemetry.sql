-- Only of a telemetry that the worker has just made: the platform's own is its own affair.
SELECT @extschema@.create_hypertable('telemetry', 'time',
    chunk_time_interval => interval '1 day', if_not_exists => true);

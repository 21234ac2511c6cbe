-- The length of the chunks that are made from now on.
SELECT @extschema@.set_chunk_time_interval('system_metrics', $1::interval);

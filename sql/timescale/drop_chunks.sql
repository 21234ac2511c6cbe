-- Drops the chunks of system_metrics that end before the given time.
SELECT count(*) FROM @extschema@.drop_chunks('system_metrics', older_than => $1::timestamptz);

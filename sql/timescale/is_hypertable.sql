SELECT EXISTS (
    SELECT FROM timescaledb_information.hypertables h
    WHERE to_regclass(format('%I.%I', h.hypertable_schema, h.hypertable_name)) = to_regclass($1::text));

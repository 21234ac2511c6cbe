-- What the jobs of the platform's processes leave behind, other than those that ops-worker takes over.
CREATE TABLE IF NOT EXISTS platform_sim_beats (job text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());

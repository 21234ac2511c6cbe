INSERT INTO platform_sim_beats (job) VALUES ($1)

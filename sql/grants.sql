-- The rights that a login role needs to do what ops-worker does, a line each. `ops-worker grants ROLE` prints them with the
-- names filled in, for a superuser or the owner of the tables to run, as often as needed.
--
-- :login is the role that the worker logs in as. :platform is the role in which the worker reads and writes the platform's
-- tables: :login itself, or pulse_operator where row-level security would hide rows from :login. A line with "if" is
-- printed where the query GrantFacts says so.

CREATE ROLE :login LOGIN; -- if new_login: give it a password
GRANT CONNECT ON DATABASE :database TO :login; -- to connect
GRANT USAGE ON SCHEMA public TO :login; -- to find the tables

GRANT SELECT ON public.ops_worker_schema_version TO :login; -- which migrations are applied
GRANT SELECT, INSERT, UPDATE ON public.ops_worker_lease TO :login; -- which replica collects
GRANT SELECT, INSERT, UPDATE ON public.ops_worker_streak TO :login; -- how many checks in a row found the same
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ops_worker_watch TO :login; -- since when each service is watched
GRANT SELECT, INSERT, UPDATE, DELETE ON public.ops_worker_message TO :login; -- of which alerts somebody has been told
GRANT SELECT, INSERT, UPDATE ON public.service_health TO :login; -- how each service is
GRANT SELECT, INSERT, DELETE ON public.system_metrics TO :login; -- samples; retention deletes them
GRANT SELECT ON public.ops_worker_series TO :login; -- the names of the samples, for retention

CREATE ROLE pulse_operator NOLOGIN BYPASSRLS; -- if new_operator: reads past row-level security
ALTER ROLE pulse_operator BYPASSRLS; -- if bound_operator: reads past row-level security
GRANT pulse_operator TO :login; -- if policies: to read past row-level security
GRANT USAGE ON SCHEMA public TO pulse_operator; -- if policies: to find the tables

GRANT SELECT, INSERT ON public.tenants TO :platform; -- aggregate; system alerts, which have a tenant of their own
GRANT SELECT ON public.ops_worker_message TO :platform; -- messages about alerts
GRANT SELECT, INSERT, UPDATE ON public.fleet_alert TO :platform; -- aggregates; system alerts
GRANT USAGE ON SEQUENCE :alert_sequence TO :platform; -- if alert_sequence: system alerts
GRANT SELECT, INSERT, UPDATE ON public.alert_maintenance_windows TO :platform; -- if maintenance_windows: when no system alert opens
GRANT SELECT ON public.alert_rules TO :platform; -- aggregate
GRANT SELECT ON public.delivery_jobs TO :platform; -- aggregates
GRANT SELECT ON public.notification_jobs TO :platform; -- if delivery_jobs_view: what that view shows
GRANT SELECT ON public.device_registry TO :platform; -- aggregate
GRANT SELECT ON public.device_state TO :platform; -- aggregates
GRANT SELECT ON public.integrations TO :platform; -- aggregate
GRANT SELECT ON public.notification_channels TO :platform; -- if integrations_view: what that view shows

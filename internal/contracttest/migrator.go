package contracttest

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/sql"
)

// MigratorFile is a file of the platform's migrator.
type MigratorFile struct{ Version, SQL string }

// MigratorFiles stand in for those of the platform's newest release: its tables
// in their first form, those that the worker makes too, and what came later.
func MigratorFiles() ([]MigratorFile, error) {
	names, err := fs.Glob(sql.Platform, "platform/tables/*.sql")
	if err != nil {
		return nil, err
	}
	var base strings.Builder
	for _, name := range names {
		content, err := sql.Platform.ReadFile(name)
		if err != nil {
			return nil, err
		}
		base.Write(content)
	}
	return []MigratorFile{
		{"000", strings.NewReplacer("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", " INDEX ", " INDEX IF NOT EXISTS ").Replace(base.String())},
		{"001", `
			CREATE TABLE IF NOT EXISTS service_health (service text PRIMARY KEY, status text NOT NULL, latency_ms integer,
				details jsonb NOT NULL DEFAULT '{}', checked_at timestamptz NOT NULL DEFAULT now());
			CREATE TABLE IF NOT EXISTS system_metrics (time timestamptz NOT NULL, metric_name text NOT NULL, service text,
				tags jsonb DEFAULT '{}', value double precision NOT NULL);
			CREATE INDEX IF NOT EXISTS idx_system_metrics_name_time ON system_metrics (metric_name, time DESC);
			CREATE OR REPLACE VIEW system_metrics_latest AS
				SELECT DISTINCT ON (metric_name, service) time, metric_name, service, value, tags FROM system_metrics ORDER BY metric_name, service, time DESC;
			CREATE OR REPLACE VIEW system_metrics_recent AS
				SELECT metric_name, service, avg(value) AS avg_value, max(value) AS max_value, min(value) AS min_value, count(*) AS sample_count
				FROM system_metrics WHERE time > now() - interval '5 minutes' GROUP BY metric_name, service`},
		{"002", `
			ALTER TABLE device_registry ADD COLUMN device_type text;
			ALTER TABLE fleet_alert ADD CONSTRAINT fleet_alert_tenant_fk FOREIGN KEY (tenant_id) REFERENCES tenants;
			ALTER TABLE device_state ENABLE ROW LEVEL SECURITY;
			ALTER TABLE device_state FORCE ROW LEVEL SECURITY;
			CREATE POLICY tenant ON device_state USING (tenant_id = current_setting('app.tenant_id', true))`},
		{"003", `
			DROP TABLE delivery_jobs;
			DROP TABLE integrations;
			CREATE TABLE notification_channels (channel_id serial PRIMARY KEY, tenant_id text, name text, channel_type text, config jsonb,
				is_enabled boolean, created_at timestamptz, updated_at timestamptz);
			CREATE TABLE notification_jobs (job_id bigserial PRIMARY KEY, tenant_id text, alert_id bigint, channel_id int, rule_id int,
				deliver_on_event text, status text, attempts int, next_run_at timestamptz, last_error text, payload_json jsonb,
				created_at timestamptz, updated_at timestamptz)`},
	}, nil
}

// RunMigrator is the platform's migrator with all its files.
func RunMigrator(ctx context.Context, pool *pgxpool.Pool) (applied int, err error) {
	files, err := MigratorFiles()
	if err != nil {
		return 0, err
	}
	return ApplyMigratorFiles(ctx, pool, files)
}

// ApplyMigratorFiles is the platform's migrator: it applies the files that it has
// not noted yet. A database without a note and with a table in public it takes for
// one that was migrated before it was there, and notes all files without applying
// any. It returns how many it applied.
func ApplyMigratorFiles(ctx context.Context, pool *pgxpool.Pool, files []MigratorFile) (applied int, err error) {
	const prepare = `CREATE TABLE IF NOT EXISTS schema_migrations (
		version text PRIMARY KEY, filename text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`
	if _, err := pool.Exec(ctx, prepare); err != nil {
		return 0, fmt.Errorf("make schema_migrations: %w", err)
	}
	var old bool
	if err := pool.QueryRow(ctx, `
		SELECT NOT EXISTS (SELECT FROM schema_migrations)
		   AND EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations')`).Scan(&old); err != nil {
		return 0, err
	}
	for _, f := range files {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, "INSERT INTO schema_migrations (version, filename) VALUES ($1, $1 || '.sql') ON CONFLICT DO NOTHING", f.Version)
			if err != nil || old || tag.RowsAffected() == 0 {
				return err
			}
			applied++
			_, err = tx.Exec(ctx, f.SQL, pgx.QueryExecModeSimpleProtocol)
			return err
		})
		if err != nil {
			return applied, fmt.Errorf("apply file %s: %w", f.Version, err)
		}
	}
	return applied, nil
}

// Package migrations carries the goose migrations inside the binary. Each may be run
// again: that is how a table that was dropped is made anew.
package migrations

import "embed"

// FS holds every migration, applied in the order of their numbers.
//
//go:embed *.sql
var FS embed.FS

// What the migrations make.
var (
	Tables = []string{"service_health", "system_metrics", "ops_worker_lease", "ops_worker_streak", "ops_worker_message", "ops_worker_watch"}
	Views  = []string{"system_metrics_latest", "system_metrics_recent", "ops_worker_series", "ops_worker_incidents"}
	// Indexes are those besides the keys.
	Indexes = []string{"idx_system_metrics_name_time", "idx_system_metrics_service_time", "idx_system_metrics_name_service_time"}
)

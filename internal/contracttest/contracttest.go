// Package contracttest is what tests know of the samples of a worker: the one
// place to change when a sample is added. Lists in other tests are derived, from
// here or from what the worker really yields.
package contracttest

import "slices"

// Sample is one that a worker stores.
type Sample struct {
	Service, Metric string
	// Value is the sample's on a database with Seed, and of a service that
	// answers with Answers; -1 is any.
	Value float64
}

// Samples are those of a cycle of a worker that monitors the services that it
// does by default.
var Samples = []Sample{
	{"ingest", "messages_received", 10},
	{"ingest", "messages_written", 9},
	{"ingest", "messages_rejected", 0}, // not reported
	{"ingest", "queue_depth", 1},
	{"ingest", "healthy", 1},
	{"evaluator", "rules_evaluated", 4},
	{"evaluator", "alerts_created", 2},
	{"evaluator", "healthy", 1},
	{"postgres", "connections", -1},
	{"postgres", "db_size_bytes", -1},
	{"postgres", "healthy", 1},
	{"platform", "devices_online", 5},
	{"platform", "devices_stale", 3},
	{"platform", "alerts_open", 2},
	{"platform", "deliveries_pending", 4},
}

// LaterSamples are those that each cycle of a term has besides, but its first.
var LaterSamples = []Sample{
	{"ingest", "ingest_rate", 0},
}

// MinuteSamples are those that one cycle of each minute has besides.
var MinuteSamples = []Sample{
	{"evaluator", "evaluation_errors", 0}, // not reported
	{"delivery", "jobs_succeeded", 3},
	{"delivery", "jobs_failed", 2},
	{"delivery", "jobs_pending", 4},
	{"postgres", "transactions_committed", -1},
	{"postgres", "transactions_rolled_back", -1},
	{"postgres", "blocks_hit", -1},
	{"postgres", "blocks_read", -1},
	{"postgres", "temp_bytes", -1},
	{"postgres", "deadlocks", -1},
	{"postgres", "oldest_xid_age", -1},
	{"postgres", "connections_max", -1},
	{"postgres", "wal_bytes", -1},
	{"postgres", "longest_transaction_seconds", -1},
	{"postgres", "locks_waiting", -1},
}

// FiveMinuteSamples are those that one cycle of each five minutes has besides. Of
// table_bytes there are ten rows.
var FiveMinuteSamples = []Sample{
	{"platform", "tenants_total", 7},
	{"platform", "tenants_active", 4},
	{"platform", "tenants_suspended", 2},
	{"platform", "tenants_deleted", 1},
	{"platform", "devices_registered", 12},
	{"platform", "devices_active", 9},
	{"platform", "devices_revoked", 2},
	{"platform", "sites", 3},
	{"platform", "devices_offline", 4},
	{"platform", "alerts_closed", 3},
	{"platform", "alerts_acknowledged", 1},
	{"platform", "alerts_24h", 5},
	{"platform", "alerts_1h", 3},
	{"platform", "integrations_total", 6},
	{"platform", "integrations_active", 5},
	{"platform", "integrations_webhook", 3},
	{"platform", "integrations_email", 2},
	{"platform", "rules_total", 5},
	{"platform", "rules_active", 4},
	{"platform", "deliveries_succeeded", 3},
	{"platform", "deliveries_failed", 2},
	{"platform", "deliveries_24h", 6},
	{"postgres", "table_bytes", -1},
}

// RunSamples are those of a minute that take a worker that runs, and its checks.
var RunSamples = []Sample{
	{"ingest", "latency_ms", -1},
	{"evaluator", "latency_ms", -1},
	{"postgres", "latency_ms", -1},
}

// FirstSamples are those of the first cycle of `once`, which has them all.
func FirstSamples() []Sample { return slices.Concat(Samples, MinuteSamples, FiveMinuteSamples) }

// NotInEveryCycle are the names of what some cycles lack, as "service metric".
func NotInEveryCycle() []string {
	return Names(LaterSamples, MinuteSamples, FiveMinuteSamples, RunSamples)
}

// Names are those of samples, as "service metric", sorted.
func Names(samples ...[]Sample) (names []string) {
	for _, s := range slices.Concat(samples...) {
		names = append(names, s.Service+" "+s.Metric)
	}
	slices.Sort(names)
	return names
}

// Answers are what the services report, by name: JSON objects.
var Answers = map[string]string{
	"ingest":    `{"messages_received":10,"messages_written":9,"queue_depth":1}`,
	"evaluator": `{"rules_evaluated":4,"alerts_created":2}`,
}

// Seed are rows that the aggregates count.
const Seed = `
	INSERT INTO tenants (tenant_id, name, status)
	SELECT i::text, 'x', CASE WHEN i <= 4 THEN 'ACTIVE' WHEN i <= 6 THEN 'SUSPENDED' ELSE 'DELETED' END FROM generate_series(1, 7) i;
	INSERT INTO device_registry (tenant_id, device_id, site_id, status)
	SELECT 't', i::text, 's' || i % 3, CASE WHEN i <= 9 THEN 'ACTIVE' WHEN i <= 11 THEN 'REVOKED' ELSE 'PENDING' END FROM generate_series(1, 12) i;
	INSERT INTO device_state (tenant_id, device_id, site_id, status)
	SELECT 't', i::text, 's', CASE WHEN i <= 5 THEN 'ONLINE' WHEN i <= 8 THEN 'STALE' ELSE 'OFFLINE' END FROM generate_series(1, 12) i;
	INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary, created_at)
	SELECT 't', 's', 'd', 'X', i::text, CASE WHEN i <= 2 THEN 'OPEN' WHEN i = 3 THEN 'ACKNOWLEDGED' ELSE 'CLOSED' END, 'x',
	       now() - CASE WHEN i <= 3 THEN interval '10 minutes' WHEN i <= 5 THEN interval '5 hours' ELSE interval '2 days' END FROM generate_series(1, 6) i;
	INSERT INTO integrations (tenant_id, name, type, enabled)
	SELECT 't', 'x', CASE WHEN i <= 3 THEN 'webhook' WHEN i <= 5 THEN 'email' ELSE 'snmp' END, i > 1 FROM generate_series(1, 6) i;
	INSERT INTO alert_rules (tenant_id, name, enabled)
	SELECT 't', 'x', i > 1 FROM generate_series(1, 5) i;
	INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, status, payload_json, created_at)
	SELECT 't', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', CASE WHEN i <= 4 THEN 'PENDING' WHEN i <= 7 THEN 'COMPLETED' ELSE 'FAILED' END, '{}',
	       now() - CASE WHEN i <= 6 THEN interval '5 minutes' ELSE interval '3 days' END FROM generate_series(1, 9) i`

// Package contracttest is what tests know of the samples of a cycle: the one
// place to change when a sample is added. Lists in other tests are derived, from
// here or from what the worker really yields.
package contracttest

// Sample is one that every cycle has.
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

// Answers are what the services report, by name: JSON objects.
var Answers = map[string]string{
	"ingest":    `{"messages_received":10,"messages_written":9,"queue_depth":1}`,
	"evaluator": `{"rules_evaluated":4,"alerts_created":2}`,
}

// Seed are rows that the aggregates count.
const Seed = `
	INSERT INTO device_state (tenant_id, device_id, site_id, status)
	SELECT 't', i::text, 's', CASE WHEN i <= 5 THEN 'ONLINE' WHEN i <= 8 THEN 'STALE' ELSE 'OFFLINE' END FROM generate_series(1, 12) i;
	INSERT INTO fleet_alert (tenant_id, site_id, device_id, alert_type, fingerprint, status, summary)
	SELECT 't', 's', 'd', 'X', i::text, CASE WHEN i <= 2 THEN 'OPEN' WHEN i = 3 THEN 'ACKNOWLEDGED' ELSE 'CLOSED' END, 'x' FROM generate_series(1, 6) i;
	INSERT INTO delivery_jobs (tenant_id, alert_id, integration_id, route_id, deliver_on_event, status, payload_json)
	SELECT 't', 1, gen_random_uuid(), gen_random_uuid(), 'OPEN', CASE WHEN i <= 4 THEN 'PENDING' ELSE 'COMPLETED' END, '{}' FROM generate_series(1, 9) i`

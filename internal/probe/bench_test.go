package probe

import (
	"testing"

	"ops_worker/internal/config"
)

func BenchmarkParseCounters(b *testing.B) {
	body := []byte(`{"status":"healthy","counters":{"messages_received":123456,"messages_written":123450,"messages_rejected":6,"queue_depth":12},"last_write_at":"2026-01-01T00:00:00Z"}`)
	keep := config.PlatformServices()[0].Names // of ingest
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := parseCounters(body, keep); err != nil {
			b.Fatal(err)
		}
	}
}

package spool

import "testing"

// BenchmarkBufferHour is what an hour of cycles weighs in memory.
func BenchmarkBufferHour(b *testing.B) {
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		buffer := memoryBuffer{limit: 720}
		for range 720 {
			cycle := Cycle{Samples: make([]Sample, 15)}
			for j := range cycle.Samples {
				cycle.Samples[j] = Sample{Metric: "messages_written", Service: "ingest", Tags: "{}", Value: float64(j)}
			}
			buffer.push(cycle)
		}
		size = buffer.bytes
	}
	b.ReportMetric(float64(size)/1024, "KiB")
}

package collectors

import "ops_worker/internal/config"

// seriesOwner is the one service that may write each of the series that the
// dashboard reads by name alone: a sample of another service under one of these
// names would mix two series in a chart.
var seriesOwner = map[string]string{
	"messages_written": "ingest",
	"queue_depth":      "ingest",
	"devices_online":   "platform",
	"alerts_open":      "platform",
	"connections":      config.DatabaseService,
}

// sampleName is the name under which an extra service's counter is stored: another
// than it has where that is a chart's, or the worker's own word on a service.
func sampleName(service, counter string) string {
	owner, reserved := seriesOwner[counter]
	if reserved && owner != service || counter == config.LatencySample {
		return service + "_" + counter
	}
	return counter
}

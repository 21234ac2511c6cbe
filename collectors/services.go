package collectors

import (
	"slices"

	"ops_worker/internal/config"
)

// Service is one monitored service.
type Service struct {
	Name  string
	Probe Probe
	// Counters are stored as samples of the service, 0 where the service does
	// not report one; nil stores none.
	Counters []string
	// AllCounters stores whatever counters the service reports.
	AllCounters bool
	// Sampled marks services whose counters and health are samples too; the
	// others are probed by the health monitor alone.
	Sampled bool
}

// Services lists what cfg says to monitor. This is the table to extend: a row a
// service of the platform.
func Services(cfg config.Services, client *HTTPClient, database Probe) []Service {
	// sampled is a service of the platform that answers base/health with counters.
	sampled := func(name, base string, counters ...string) Service {
		return Service{Name: name, Probe: client.JSON(base, "/health", counters...), Counters: counters, Sampled: true}
	}
	table := []Service{
		sampled("ingest", cfg.IngestURL, "messages_received", "messages_written", "messages_rejected", "queue_depth"),
		sampled("evaluator", cfg.EvaluatorURL, "rules_evaluated", "alerts_created"),
		sampled("dispatcher", cfg.DispatcherURL, "alerts_processed", "routes_matched"),
		sampled("delivery", cfg.DeliveryURL, "jobs_succeeded", "jobs_failed", "jobs_pending"),
		{Name: "keycloak", Probe: client.Status(cfg.KeycloakURL, "/realms/"+cfg.KeycloakRealm)},
		{Name: "mqtt", Probe: TCP(cfg.MQTTAddress)},
		{Name: databaseService, Probe: database},
	}
	for _, s := range cfg.Further {
		table = append(table, Service{Name: s.Name, Probe: client.JSON(s.URL, ""), Sampled: true, AllCounters: true})
	}
	return slices.DeleteFunc(table, func(s Service) bool { return s.Probe == nil })
}

// databaseService is the worker's own database among the services.
const databaseService = "postgres"

// seriesOwner is the one service that may write each of the series that the
// dashboard reads by name alone: a sample of another service under one of these
// names would mix two series in a chart.
var seriesOwner = map[string]string{
	"messages_written": "ingest",
	"queue_depth":      "ingest",
	"devices_online":   "platform",
	"alerts_open":      "platform",
	"connections":      databaseService,
}

// sampleName is the name under which a service's counter is stored.
func sampleName(service, counter string) string {
	if owner, reserved := seriesOwner[counter]; reserved && owner != service {
		return service + "_" + counter
	}
	return counter
}

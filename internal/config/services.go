package config

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"
)

// ProbeKind is how a service is asked.
type ProbeKind int

// The kinds of probes.
const (
	// ProbeCounters is a GET whose answer may have counters. Such a service's
	// counters and health are samples too; the others are probed by the health
	// monitor alone.
	ProbeCounters ProbeKind = iota
	ProbeStatus             // a GET that answers 200
	ProbeTCP                // a connection that is accepted
	ProbeTLS                // a handshake with a certificate that is verified
	ProbeDatabase           // a query on the worker's own database
)

// Counter is a number that a service reports.
type Counter struct {
	Name string
	// Gauge marks a number that also falls; the others fall at a restart alone.
	Gauge bool
	// Fallback is what newer releases of the service report in its place.
	Fallback string
	// Rate names the sample of its growth a second, if there is one.
	Rate string
	// Minutely is stored once a minute instead of with every cycle.
	Minutely bool
}

// Of is the counter among those that an instance reports.
func (c Counter) Of(reported map[string]float64) (value float64, ok bool) {
	if value, ok = reported[c.Name]; !ok && c.Fallback != "" {
		value, ok = reported[c.Fallback]
	}
	return value, ok
}

// Service is a monitored service.
type Service struct {
	Name string
	// Former is what the platform's own monitor called it in its rows and alerts, if
	// that is another name.
	Former string
	// Variable is the setting that says where it is.
	Variable string
	Kind     ProbeKind
	// Addresses are URLs, or host:port of a ProbeTCP or ProbeTLS; they may hold secrets. The
	// service's instances answer there, at each name one or more.
	Addresses []string
	// Counters are stored as samples, 0 where the service does not report one.
	Counters []Counter
	// Gauges are stored besides, once a minute, where the service reports them. What
	// else a service of the platform reports is not: nobody knows what it counts.
	Gauges []string
	// Extra marks a service of HEALTH_SERVICES: it is one instance, any 2xx answer is
	// healthy, and whatever counters it reports are stored.
	Extra bool

	// Of a platform service: what Variable is where it is unset, and the address that
	// is made of one that Variable names.
	fallback string
	address  func(c *Config, named string) string
}

// Names reports whether a name is one of the numbers that the table knows.
func (s Service) Names(name string) bool {
	return slices.Contains(s.Gauges, name) || slices.ContainsFunc(s.Counters, func(c Counter) bool { return c.Name == name || c.Fallback == name })
}

// Totals reports whether a name is one of the counters that have a running total.
func (s Service) Totals(name string) bool {
	return slices.ContainsFunc(s.Counters, func(c Counter) bool { return c.Name == name && !c.Gauge })
}

// DatabaseService is the worker's own database among the services.
const DatabaseService = "postgres"

// platformServices is the table to extend: a row a service of the platform,
// after its contract. The settings, the probes, the samples, doctor and the
// simulator follow from it.
var platformServices = []Service{
	{Name: "ingest", Variable: "INGEST_HEALTH_URL", fallback: "http://iot-ingest:8080", address: health,
		Counters: []Counter{{Name: "messages_received"}, {Name: "messages_written", Rate: "ingest_rate"}, {Name: "messages_rejected"}, {Name: "queue_depth", Gauge: true, Fallback: "nats_telemetry_pending"}},
		Gauges:   []string{"nats_telemetry_pending", "nats_shadow_pending", "nats_commands_pending"}},
	{Name: "evaluator", Variable: "EVALUATOR_HEALTH_URL", fallback: "http://iot-evaluator:8080", address: health,
		Counters: []Counter{{Name: "rules_evaluated"}, {Name: "alerts_created"}, {Name: "evaluation_errors", Minutely: true}}},
	{Name: "dispatcher", Variable: "DISPATCHER_HEALTH_URL", address: health,
		Counters: []Counter{{Name: "alerts_processed"}, {Name: "routes_matched"}}},
	{Name: "delivery", Former: "delivery_worker", Variable: "DELIVERY_HEALTH_URL", address: health,
		Counters: []Counter{{Name: "jobs_succeeded"}, {Name: "jobs_failed"}, {Name: "jobs_pending", Gauge: true}}},
	{Name: "keycloak", Variable: "KEYCLOAK_INTERNAL_URL", Kind: ProbeStatus,
		address: func(c *Config, base string) string { return base + "/realms/" + c.KeycloakRealm }},
	{Name: "mqtt", Variable: "MQTT_HOST", Kind: ProbeTCP,
		address: func(c *Config, host string) string { return net.JoinHostPort(host, strconv.Itoa(c.MQTTPort)) }},
	{Name: DatabaseService, Kind: ProbeDatabase},
}

// healthPath is where the platform's own services answer.
const healthPath = "/health"

func health(_ *Config, base string) string { return base + healthPath }

// PlatformServices are the services that the platform has, monitored or not,
// without their addresses.
func PlatformServices() []Service { return slices.Clone(platformServices) }

// Monitored are the names of the services.
func (c *Config) Monitored() []string {
	names := make([]string, len(c.Services))
	for i, s := range c.Services {
		names[i] = s.Name
	}
	return names
}

// monitored lists the services that set names: those of the platform, and
// HEALTH_SERVICES.
func (c *Config) monitored(set map[string]string, p *problems) (services []Service) {
	for _, s := range platformServices {
		if s.Kind != ProbeDatabase {
			list := cmp.Or(set[s.Variable], s.fallback)
			if list == "" {
				continue
			}
			s.Addresses = c.addresses(s, list, p)
		}
		services = append(services, s)
	}
	extra := extraServices(p, c.HealthServices)
	for i := range services { // a name that is monitored is no former one
		if slices.ContainsFunc(extra, func(e Service) bool { return e.Name == services[i].Former }) {
			services[i].Former = ""
		}
	}
	return append(services, extra...)
}

// addresses reads a service's list. A comma inside a URL must be written %2C.
func (c *Config) addresses(s Service, list string, p *problems) (addresses []string) {
	for value := range strings.SplitSeq(list, ",") {
		value = strings.TrimSpace(value)
		if s.Kind == ProbeTCP {
			p.check(s.Variable, value != "", "must be a host name or an address")
			p.checkHost(s.Variable, value, "MQTT_PORT")
		} else {
			p.check(s.Variable, isHTTP(value), notHTTP)
			p.check(s.Variable, !strings.ContainsAny(value, "?#"), "must end with the host, the port or a path: a query or a fragment cannot be sent")
			value = strings.TrimRight(value, "/")
			p.check(s.Variable, s.Kind != ProbeCounters || !strings.HasSuffix(value, healthPath), "must not end in %s, which is added", healthPath)
		}
		address := s.address(c, value)
		p.check(s.Variable, !slices.Contains(addresses, address), "names an instance twice") // it would count twice
		addresses = append(addresses, address)
	}
	p.check(s.Variable, len(addresses) <= MaxInstances, "may name at most %d instances of a service", MaxInstances)
	return addresses
}

const (
	// MaxInstances is how many instances a service may have.
	MaxInstances = 256
	// MaxExtra is how many extra services there may be.
	MaxExtra = 250
)

var serviceName = pattern(`^[a-z0-9_-]{1,64}$`)

// socketKinds are the probes of extra services that speak no HTTP, by the scheme of
// their URL.
var socketKinds = map[string]ProbeKind{"tcp": ProbeTCP, "tls": ProbeTLS}

// extraServices reads HEALTH_SERVICES=name=url,name=url. Each is one target. A comma
// inside a URL must be written %2C.
func extraServices(p *problems, value string) (list []Service) {
	ours, taken := map[string]bool{PlatformSamples: true}, map[string]bool{}
	for _, s := range platformServices {
		ours[s.Name] = true
	}
	for i, entry := range strings.Split(value, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		name, address, found := strings.Cut(entry, "=")
		name, address = strings.TrimSpace(name), strings.TrimSpace(address)
		scheme, socket, _ := strings.Cut(address, "://")
		kind, isSocket := socketKinds[strings.ToLower(scheme)]
		switch {
		case !found:
			p.add(ExtraServicesVariable, "entry %d is not of the form name=url: a second URL has a name of its own", i+1)
		case !serviceName().MatchString(name):
			p.add(ExtraServicesVariable, "the name of entry %d must be 1 to 64 characters of a-z 0-9 _ -", i+1)
		case ours[name]:
			p.add(ExtraServicesVariable, "%s is a name of the platform's own", name)
		case taken[name]:
			p.add(ExtraServicesVariable, "%s is there twice", name)
		case isSocket && !isHostPort(socket, false):
			p.add(ExtraServicesVariable, "the URL of %s must be %s://host:port, an IPv6 address in brackets, and nothing else: no user, password or path", name, strings.ToLower(scheme))
		case !isSocket && !isHTTP(address):
			p.add(ExtraServicesVariable, "the URL of %s must be like http://host:8080/health, tcp://host:1883 or tls://host:8883", name)
		default:
			taken[name] = true
			if isSocket {
				address = socket
			}
			list = append(list, Service{Name: name, Variable: ExtraServicesVariable, Kind: kind, Addresses: []string{address}, Extra: true})
		}
	}
	p.check(ExtraServicesVariable, len(list) <= MaxExtra, "may name at most %d services", MaxExtra)
	return list
}

const (
	// ExtraServicesVariable names the services that the platform does not have.
	ExtraServicesVariable = "HEALTH_SERVICES"
	// HealthSample is the sample that says whether a service is well, 1 or 0.
	HealthSample = "healthy"
	// The samples of a service that is more than one instance: how many there are,
	// and how many are well.
	InstancesSample        = "instances"
	InstancesHealthySample = "instances_healthy"
	// LatencySample is how long a service's newest check took.
	LatencySample = "latency_ms"
	// PlatformSamples is the service under which the platform's own samples are
	// written.
	PlatformSamples = "platform"
)

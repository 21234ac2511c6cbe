// Package config turns the environment into one validated value. It is the only
// reader of the environment.
package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"ops_worker/internal/humanize"
)

// Config is a complete, validated configuration. FromEnvironment is the way to
// one. A field with a tag is a setting, with its default.
type Config struct {
	Heartbeat
	Database Database

	HealthInterval  time.Duration `env:"HEALTH_CHECK_INTERVAL" envDefault:"60"`
	MetricsInterval time.Duration `env:"METRICS_COLLECTION_INTERVAL" envDefault:"5"`
	// MetricsRetention is how long samples are kept; 0 keeps them for ever.
	MetricsRetention time.Duration `env:"METRICS_RETENTION" envDefault:"7d"`
	// AggregateBudget is the share of wall time that all aggregates together may keep
	// the database busy, and AggregateTimeout bounds each.
	AggregateBudget  Percent       `env:"AGGREGATE_BUDGET" envDefault:"2%"`
	AggregateTimeout time.Duration `env:"AGGREGATE_TIMEOUT" envDefault:"60"`
	SystemAlerts     bool          `env:"SYSTEM_ALERT_ENABLED" envDefault:"true"`
	// AlertAfterFailures and AlertAfterSuccesses are how many checks in a row open
	// and close a system alert.
	AlertAfterFailures  int `env:"ALERT_AFTER_FAILURES" envDefault:"1"`
	AlertAfterSuccesses int `env:"ALERT_AFTER_SUCCESSES" envDefault:"1"`
	// AlertWebhookURL is who is told of each alert, in the words of AlertWebhookFormat;
	// empty tells nobody. HeartbeatURL is asked for while samples are stored. Both may hold
	// a secret.
	AlertWebhookURL     string `env:"ALERT_WEBHOOK_URL"`
	AlertWebhookURLFile string `env:"ALERT_WEBHOOK_URL_FILE"`
	AlertWebhookFormat  string `env:"ALERT_WEBHOOK_FORMAT" envDefault:"json"`
	HeartbeatURL        string `env:"HEARTBEAT_URL"`

	// ReplacePlatformWorker accepts PlatformWorkerSettings.
	ReplacePlatformWorker bool `env:"REPLACE_PLATFORM_WORKER" envDefault:"false"`
	// PlatformWorkerSettings names the settings of the platform's own worker that
	// are set: with these, this worker stands in its place.
	PlatformWorkerSettings []string

	LeaseTTL time.Duration `env:"LEASE_TTL" envDefault:"15"`
	// BufferCycles bounds the finished cycles kept while the database is away.
	BufferCycles int `env:"BUFFER_CYCLES"`
	// SpoolDir makes that buffer survive the process; empty keeps it in memory.
	SpoolDir string `env:"SPOOL_DIR"`
	// HTTPAddr is where /health, /ready and /metrics are served; empty serves none.
	HTTPAddr string `env:"HTTP_ADDR"`

	// Services are what is monitored: the platform's own, each with a setting
	// that stands in its row, and HealthServices.
	Services           []Service
	HealthServices     string `env:"HEALTH_SERVICES"`
	HealthServicesFile string `env:"HEALTH_SERVICES_FILE"`
	KeycloakRealm      string `env:"KEYCLOAK_REALM" envDefault:"pulse"`
	MQTTPort           int    `env:"MQTT_PORT" envDefault:"1883"`
	// Instances asks every address that a service's name has; without it each name
	// is asked at one.
	Instances bool `env:"INSTANCES" envDefault:"on"`
	// HealthCAFile holds certificates that a service's may be signed with, besides
	// those of the system.
	HealthCAFile string `env:"HEALTH_CA_FILE"`
	// HealthCAs is what it holds; nil without one.
	HealthCAs *x509.CertPool

	LogLevel Level `env:"LOG_LEVEL" envDefault:"INFO"`
	// LogFormat is "json", "console" or "" for the terminal to decide.
	LogFormat string `env:"LOG_FORMAT"`

	// Warnings are settings that were mended rather than refused.
	Warnings []string
}

const (
	// The platform sets shorter ones, and expects this.
	minHealthInterval  = 5 * time.Second
	minMetricsInterval = 100 * time.Millisecond
)

// FromEnvironment reads the configuration from "NAME=value" pairs, as
// os.Environ gives them. An empty value counts as unset, as compose files write
// it, and blanks around one are dropped, unless they may be a password's. The error
// names every setting that is wrong, and holds no value of any.
func FromEnvironment(environ []string) (Config, error) {
	set := settings(environ)
	var c Config
	var p problems
	p.addParse(env.ParseWithOptions(&c, env.Options{Environment: set, FuncMap: parsers}))
	c.PlatformWorkerSettings = platformWorkerSettings(set)
	c.Database.complete(set, &p)
	c.complete(&p)
	c.Services = c.monitored(set, &p)
	c.Warnings = append(c.Warnings, misspelt(set)...)
	return c, p.err()
}

// gone are settings of earlier versions, and what to do instead.
var gone = map[string]string{
	"AGGREGATE_DATABASE_URL": "AGGREGATE_BUDGET bounds what counting costs",
	"MIGRATE_DATABASE_URL":   "run `ops-worker migrate up` and `ops-worker grants` as that role",
	"WAIT_FOR_OTHER_WRITER":  "stop the other writer before the start",
}

// misspelt warns of variables that are none of ours, and are nearly one or go on where
// it ends.
func misspelt(set map[string]string) (warnings []string) {
	known := slices.Sorted(maps.Values(variables()))
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if instead, ok := gone[strings.TrimSuffix(name, "_FILE")]; ok {
			warnings = append(warnings, fmt.Sprintf("%s is no setting any more: %s", name, instead))
			continue
		}
		ofDriver := strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PG_") // such as PGHOST
		if slices.Contains(known, name) || ofDriver || serviceLink().MatchString(name) {
			continue
		}
		var meant []string
		for _, ours := range known {
			near := len(humanize.Near(name, []string{ours})) > 0 && strings.HasPrefix(name, ours[:3])
			more, longer := strings.CutPrefix(name, ours)
			if near || longer && !strings.ContainsAny(more, "_0123456789") { // PG_PASSWORD
				meant = append(meant, ours)
			}
		}
		if len(meant) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s is no setting: is %s meant?", name, strings.Join(meant, " or ")))
		}
	}
	return warnings
}

// variables are the names of all settings, by the field or the service that has each.
func variables() map[string]string {
	names := map[string]string{}
	for _, field := range append(reflect.VisibleFields(reflect.TypeFor[Config]()), reflect.VisibleFields(reflect.TypeFor[Database]())...) {
		if name := field.Tag.Get("env"); name != "" {
			names[field.Name] = name
		}
	}
	for _, s := range platformServices {
		if s.Variable != "" {
			names[s.Name] = s.Variable
		}
	}
	return names
}

// settings are the variables that have a value, and STATE_DIR.
func settings(environ []string) map[string]string {
	set := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if name != "PG_PASS" {
			value = strings.TrimSpace(value)
		}
		if value != "" {
			set[name] = value
		}
	}
	if set["STATE_DIR"] == "" {
		set["STATE_DIR"] = filepath.Join(os.TempDir(), fmt.Sprintf("ops-worker-%d", os.Geteuid()))
		if own := set["XDG_RUNTIME_DIR"]; own != "" {
			set["STATE_DIR"] = filepath.Join(own, "ops-worker")
		}
	}
	return set
}

// Heartbeat is what `healthcheck` needs. It reads no other setting: one that is
// wrong by now, or a secret that is being rotated, is no fault of a worker that runs.
type Heartbeat struct {
	// StateDir holds the file by which the loops tell `healthcheck` that they turn.
	StateDir    string `env:"STATE_DIR"`
	ServiceName string `env:"SERVICE_NAME" envDefault:"ops_worker"`
}

// HeartbeatFrom reads it from "NAME=value" pairs.
func HeartbeatFrom(environ []string) (h Heartbeat, err error) {
	err = env.ParseWithOptions(&h, env.Options{Environment: settings(environ)})
	return h, err
}

// PlainTerminal says that the user wants no colour, or that the terminal has none. NO_COLOR
// and TERM are no settings of the worker.
func PlainTerminal(environ []string) bool {
	set := settings(environ)
	return set["NO_COLOR"] != "" || set["TERM"] == "" || set["TERM"] == "dumb"
}

// complete checks what the parsers let through, and fills in what follows from
// other settings.
func (c *Config) complete(p *problems) {
	p.check("METRICS_COLLECTION_INTERVAL", c.MetricsInterval >= minMetricsInterval, "must be at least %s", minMetricsInterval)
	p.check("METRICS_RETENTION", c.MetricsRetention == 0 || c.MetricsRetention >= time.Hour, "must be 0 (keep for ever) or at least 1h")
	p.check("AGGREGATE_BUDGET", c.AggregateBudget > 0 && c.AggregateBudget <= 100, "must be above 0%% and at most 100%%")
	p.check("AGGREGATE_TIMEOUT", c.AggregateTimeout >= time.Second && c.AggregateTimeout <= time.Hour, "must be between 1s and 1h")
	p.check("LEASE_TTL", c.LeaseTTL >= time.Second, "must be at least 1s")
	p.check("BUFFER_CYCLES", c.BufferCycles <= 1_000_000, "must be between 1 and 1000000")
	p.check("MQTT_PORT", isPort(c.MQTTPort), notAPort)
	p.check("ALERT_AFTER_FAILURES", c.AlertAfterFailures >= 1, "must be at least 1")
	p.check("ALERT_AFTER_SUCCESSES", c.AlertAfterSuccesses >= 1, "must be at least 1")
	c.AlertWebhookURL = p.orFile("ALERT_WEBHOOK_URL", c.AlertWebhookURL, c.AlertWebhookURLFile, readTrimmed)
	p.check("ALERT_WEBHOOK_URL", c.AlertWebhookURL == "" || isHTTP(c.AlertWebhookURL), notHTTP)
	p.check("HEARTBEAT_URL", c.HeartbeatURL == "" || isHTTP(c.HeartbeatURL), notHTTP)
	c.AlertWebhookFormat = strings.ToLower(c.AlertWebhookFormat)
	p.check("ALERT_WEBHOOK_FORMAT", slices.Contains([]string{"json", "slack", "alertmanager"}, c.AlertWebhookFormat), "must be json, slack or alertmanager")
	if c.AlertWebhookURL == "" && c.AlertWebhookFormat != "json" {
		c.Warnings = append(c.Warnings, "ALERT_WEBHOOK_FORMAT tells nobody: ALERT_WEBHOOK_URL is not set")
	}
	if c.AlertWebhookURL != "" && !c.SystemAlerts {
		c.Warnings = append(c.Warnings, "ALERT_WEBHOOK_URL is told nothing: SYSTEM_ALERT_ENABLED is off")
	}
	p.check("HTTP_ADDR", c.HTTPAddr == "" || isHostPort(c.HTTPAddr, true), "must be an address like :8080 or 127.0.0.1:8080")
	c.HealthServices = p.orFile("HEALTH_SERVICES", c.HealthServices, c.HealthServicesFile, readServices)
	if c.HealthCAFile != "" {
		c.HealthCAs = p.certificates("HEALTH_CA_FILE", c.HealthCAFile)
	}
	c.LogFormat = strings.ToLower(c.LogFormat)
	p.check("LOG_FORMAT", slices.Contains([]string{"", "json", "console"}, c.LogFormat), "must be json or console")
	if c.HealthInterval < minHealthInterval {
		c.HealthInterval = minHealthInterval
		c.Warnings = append(c.Warnings, fmt.Sprintf("HEALTH_CHECK_INTERVAL is raised to its minimum, %s", minHealthInterval))
	}
	if c.BufferCycles == 0 { // an hour of them
		c.BufferCycles = max(int(time.Hour/max(c.MetricsInterval, minMetricsInterval)), 1)
	}
}

const (
	notAPort = "must be between 1 and 65535"
	notHTTP  = "must be a URL like http://host:8080"
)

func isPort(n int) bool { return n >= 1 && n <= 65535 }

// checkHost looks at a host whose port is a setting of its own.
func (p *problems) checkHost(name, value, portName string) {
	if _, err := netip.ParseAddr(value); err == nil {
		return
	}
	p.check(name, !strings.ContainsAny(value, "[:"), "must be a host alone, without brackets: the port goes into %s", portName)
	p.check(name, !strings.ContainsAny(value, "/@?# "), "must be a host name or an address")
}

// problems gathers what is wrong, a line each, up to maxProblems: a list of services
// may have any number.
type problems struct{ lines []string }

const maxProblems = 50

func (p *problems) add(name, format string, args ...any) {
	line := name + ": " + fmt.Sprintf(format, args...)
	if len(p.lines) >= maxProblems {
		line = "more is wrong"
	}
	if !slices.Contains(p.lines, line) {
		p.lines = append(p.lines, line)
	}
}

func (p *problems) addError(name string, err error) {
	if err != nil {
		p.add(name, "%v", err)
	}
}

// check adds a problem unless ok; not twice for a setting that did not parse.
func (p *problems) check(name string, ok bool, format string, args ...any) {
	if ok || slices.ContainsFunc(p.lines, func(l string) bool { return strings.HasPrefix(l, name+":") }) {
		return
	}
	p.add(name, format, args...)
}

// addParse names the variables behind the library's errors, which name fields.
func (p *problems) addParse(err error) {
	all, ok := errors.AsType[env.AggregateError](err)
	if !ok {
		all.Errors = []error{err}
	}
	for _, err := range all.Errors {
		name := "environment"
		if parse, ok := errors.AsType[env.ParseError](err); ok {
			name, err = variables()[parse.Name], parse.Err
		}
		p.addError(name, err)
	}
}

func (p *problems) err() error {
	if len(p.lines) == 0 {
		return nil
	}
	slices.Sort(p.lines)
	return &Error{Problems: p.lines}
}

// Error lists every wrong setting, a line each, named and without its value.
type Error struct{ Problems []string }

func (e *Error) Error() string {
	return "wrong settings:\n  " + strings.Join(e.Problems, "\n  ")
}

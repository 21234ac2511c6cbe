// Package config turns the environment into one validated value. It is the only
// reader of the environment.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/rs/zerolog"

	"ops_worker/db"
)

// Config is a complete, validated configuration. FromEnvironment is the way to one.
type Config struct {
	Database db.Options
	Services Services

	HealthInterval  time.Duration
	MetricsInterval time.Duration
	SystemAlerts    bool
	// MetricsRetention is how long samples are kept; 0 keeps them for ever.
	MetricsRetention time.Duration

	LeaseTTL time.Duration
	// BufferCycles bounds the finished cycles kept while the database is away.
	BufferCycles int
	// SpoolDir makes that buffer survive the process; empty keeps it in memory.
	SpoolDir string
	// StateDir holds the file by which the loops tell `healthcheck` that they turn.
	StateDir string

	ServiceName string
	LogLevel    zerolog.Level
	// LogFormat is "json", "console" or "" for the terminal to decide.
	LogFormat string

	// Warnings are settings that were mended rather than refused.
	Warnings []string
}

// Services are the addresses of what is monitored. An empty one is not.
type Services struct {
	IngestURL, EvaluatorURL, DispatcherURL, DeliveryURL string
	KeycloakURL, KeycloakRealm                          string
	MQTTAddress                                         string // host:port
	Further                                             []NamedURL
}

// NamedURL is one service of HEALTH_SERVICES.
type NamedURL struct{ Name, URL string }

// MinHealthInterval is the shortest HEALTH_CHECK_INTERVAL; the platform sets
// shorter ones and expects this.
const MinHealthInterval = 5 * time.Second

const (
	minMetricsInterval = 100 * time.Millisecond
	minLeaseTTL        = time.Second
	maxBufferCycles    = 1_000_000
	maxFurtherServices = 64
	defaultBufferSpan  = time.Hour
)

// variables are the settings as they stand in the environment.
type variables struct {
	DatabaseURL    string  `env:"DATABASE_URL"`
	Host           string  `env:"PG_HOST" envDefault:"iot-postgres"`
	Port           count   `env:"PG_PORT" envDefault:"5432"`
	Name           string  `env:"PG_DB" envDefault:"iotcloud"`
	User           string  `env:"PG_USER" envDefault:"iot"`
	Password       string  `env:"PG_PASS"`
	PoolMin        count   `env:"PG_POOL_MIN" envDefault:"2"`
	PoolMax        count   `env:"PG_POOL_MAX" envDefault:"10"`
	ConnectTimeout seconds `env:"DB_CONNECT_TIMEOUT" envDefault:"10"`
	// Accepted because the platform sets it; nothing here needs a session, so
	// it is checked and not used.
	NotifyDatabaseURL string `env:"NOTIFY_DATABASE_URL"`

	HealthInterval   seconds `env:"HEALTH_CHECK_INTERVAL" envDefault:"60"`
	MetricsInterval  seconds `env:"METRICS_COLLECTION_INTERVAL" envDefault:"5"`
	MetricsRetention seconds `env:"METRICS_RETENTION" envDefault:"7d"`
	SystemAlerts     flag    `env:"SYSTEM_ALERT_ENABLED" envDefault:"true"`
	LeaseTTL         seconds `env:"LEASE_TTL" envDefault:"15"`
	BufferCycles     count   `env:"BUFFER_CYCLES"`
	SpoolDir         string  `env:"SPOOL_DIR"`
	StateDir         string  `env:"STATE_DIR"`

	IngestURL      string `env:"INGEST_HEALTH_URL" envDefault:"http://iot-ingest:8080"`
	EvaluatorURL   string `env:"EVALUATOR_HEALTH_URL" envDefault:"http://iot-evaluator:8080"`
	DispatcherURL  string `env:"DISPATCHER_HEALTH_URL"`
	DeliveryURL    string `env:"DELIVERY_HEALTH_URL"`
	KeycloakURL    string `env:"KEYCLOAK_INTERNAL_URL"`
	KeycloakRealm  string `env:"KEYCLOAK_REALM" envDefault:"pulse"`
	MQTTHost       string `env:"MQTT_HOST"`
	MQTTPort       count  `env:"MQTT_PORT" envDefault:"1883"`
	HealthServices string `env:"HEALTH_SERVICES"`

	ServiceName string `env:"SERVICE_NAME" envDefault:"ops_worker"`
	LogLevel    level  `env:"LOG_LEVEL" envDefault:"INFO"`
	LogFormat   string `env:"LOG_FORMAT"`
}

// FromEnvironment reads the configuration from "NAME=value" pairs, as
// os.Environ gives them. An empty
// value counts as unset, as compose files write it. The error names every
// setting that is wrong, and holds no value of any.
func FromEnvironment(environ []string) (Config, error) {
	set := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if value = strings.TrimSpace(value); value != "" {
			set[name] = value
		}
	}
	var v variables
	var problems problems
	if err := env.ParseWithOptions(&v, env.Options{Environment: set}); err != nil {
		problems.addParse(err)
	}
	cfg := v.validate(&problems)
	return cfg, problems.err()
}

func (v *variables) validate(p *problems) Config {
	cfg := Config{
		Database: db.Options{
			URL:             v.databaseURL(p),
			MinConns:        int32(v.PoolMin),
			MaxConns:        int32(v.PoolMax),
			ConnectTimeout:  time.Duration(v.ConnectTimeout),
			ApplicationName: v.ServiceName,
		},
		Services: Services{
			IngestURL:     httpURL(p, "INGEST_HEALTH_URL", v.IngestURL),
			EvaluatorURL:  httpURL(p, "EVALUATOR_HEALTH_URL", v.EvaluatorURL),
			DispatcherURL: httpURL(p, "DISPATCHER_HEALTH_URL", v.DispatcherURL),
			DeliveryURL:   httpURL(p, "DELIVERY_HEALTH_URL", v.DeliveryURL),
			KeycloakURL:   httpURL(p, "KEYCLOAK_INTERNAL_URL", v.KeycloakURL),
			KeycloakRealm: v.KeycloakRealm,
			Further:       furtherServices(p, v.HealthServices),
		},
		HealthInterval:   time.Duration(v.HealthInterval),
		MetricsInterval:  time.Duration(v.MetricsInterval),
		MetricsRetention: time.Duration(v.MetricsRetention),
		SystemAlerts:     bool(v.SystemAlerts),
		LeaseTTL:         time.Duration(v.LeaseTTL),
		BufferCycles:     int(v.BufferCycles),
		SpoolDir:         v.SpoolDir,
		StateDir:         v.StateDir,
		ServiceName:      v.ServiceName,
		LogLevel:         zerolog.Level(v.LogLevel),
		LogFormat:        strings.ToLower(v.LogFormat),
	}
	if v.NotifyDatabaseURL != "" {
		checkDatabaseURL(p, "NOTIFY_DATABASE_URL", v.NotifyDatabaseURL)
	}
	p.check("PG_PORT", v.Port >= 1 && v.Port <= 65535, "must be between 1 and 65535")
	p.check("PG_POOL_MAX", v.PoolMax >= 1 && v.PoolMax <= 1000, "must be between 1 and 1000")
	p.check("PG_POOL_MIN", v.PoolMin <= v.PoolMax || v.PoolMax < 1, "must be between 0 and PG_POOL_MAX")
	p.check("DB_CONNECT_TIMEOUT", v.ConnectTimeout > 0, "must be longer than 0")
	p.check("METRICS_COLLECTION_INTERVAL", cfg.MetricsInterval >= minMetricsInterval, "must be at least %s", minMetricsInterval)
	p.check("METRICS_RETENTION", cfg.MetricsRetention == 0 || cfg.MetricsRetention >= time.Hour, "must be 0 (keep for ever) or at least 1h")
	p.check("LEASE_TTL", cfg.LeaseTTL >= minLeaseTTL, "must be at least %s", minLeaseTTL)
	p.check("BUFFER_CYCLES", cfg.BufferCycles >= 0 && cfg.BufferCycles <= maxBufferCycles, "must be between 1 and %d", maxBufferCycles)
	p.check("LOG_FORMAT", slices.Contains([]string{"", "json", "console"}, cfg.LogFormat), "must be json or console")
	p.check("MQTT_PORT", v.MQTTPort >= 1 && v.MQTTPort <= 65535, "must be between 1 and 65535")

	p.check("HEALTH_CHECK_INTERVAL", cfg.HealthInterval > 0, "must be longer than 0")
	if cfg.HealthInterval > 0 && cfg.HealthInterval < MinHealthInterval {
		cfg.HealthInterval = MinHealthInterval
		cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("HEALTH_CHECK_INTERVAL is raised to its minimum, %s", MinHealthInterval))
	}
	if v.MQTTHost != "" {
		cfg.Services.MQTTAddress = net.JoinHostPort(v.MQTTHost, strconv.Itoa(int(v.MQTTPort)))
	}
	if cfg.BufferCycles == 0 && cfg.MetricsInterval >= minMetricsInterval {
		cfg.BufferCycles = int(defaultBufferSpan / cfg.MetricsInterval)
		cfg.BufferCycles = max(cfg.BufferCycles, 1)
	}
	if cfg.StateDir == "" {
		cfg.StateDir = filepath.Join(os.TempDir(), "ops-worker")
	}
	return cfg
}

// databaseURL is DATABASE_URL, or one made of PG_*.
func (v *variables) databaseURL(p *problems) string {
	if v.DatabaseURL != "" {
		checkDatabaseURL(p, "DATABASE_URL", v.DatabaseURL)
		return v.DatabaseURL
	}
	u := url.URL{
		Scheme: "postgresql",
		Host:   net.JoinHostPort(v.Host, strconv.Itoa(int(v.Port))),
		Path:   "/" + v.Name,
		User:   url.User(v.User),
	}
	if v.Password != "" {
		u.User = url.UserPassword(v.User, v.Password)
	}
	if _, err := db.PoolConfig(db.Options{URL: u.String()}); err != nil && v.Port >= 1 && v.Port <= 65535 {
		p.add("PG_HOST", "PG_HOST, PG_DB and PG_USER do not make a valid address")
	}
	return u.String()
}

func checkDatabaseURL(p *problems, name, value string) {
	if !strings.HasPrefix(value, "postgres://") && !strings.HasPrefix(value, "postgresql://") {
		p.add(name, "must start with postgres:// or postgresql://")
		return
	}
	if _, err := db.PoolConfig(db.Options{URL: value}); err != nil {
		p.add(name, "%v", err)
	}
}

// httpURL checks a service's base URL and takes off the slash at its end.
func httpURL(p *problems, name, value string) string {
	if value == "" {
		return ""
	}
	if u, err := url.Parse(value); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		p.add(name, "must be a URL like http://host:8080")
	}
	return strings.TrimRight(value, "/")
}

// reservedNames are the services that the platform has itself; system is
// theirs too, as the platform's samples are written under "platform".
var reservedNames = []string{"ingest", "evaluator", "dispatcher", "delivery", "keycloak", "mqtt", "postgres", "platform"}

var serviceName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// furtherServices reads HEALTH_SERVICES=name=url,name=url. A comma inside a URL
// must be written %2C.
func furtherServices(p *problems, value string) []NamedURL {
	var list []NamedURL
	defer func() {
		p.check("HEALTH_SERVICES", len(list) <= maxFurtherServices, "may name at most %d services", maxFurtherServices)
	}()
	for i, entry := range strings.Split(value, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		name, address, found := strings.Cut(entry, "=")
		name, address = strings.TrimSpace(name), strings.TrimSpace(address)
		switch {
		case !found:
			p.add("HEALTH_SERVICES", "entry %d is not of the form name=url", i+1)
			continue
		case !serviceName.MatchString(name):
			p.add("HEALTH_SERVICES", "the name of entry %d must be 1 to 64 characters of a-z 0-9 _ -", i+1)
			continue
		case slices.Contains(reservedNames, name):
			p.add("HEALTH_SERVICES", "%s is a name of the platform's own", name)
			continue
		case slices.ContainsFunc(list, func(s NamedURL) bool { return s.Name == name }):
			p.add("HEALTH_SERVICES", "%s is there twice", name)
			continue
		}
		if u, err := url.Parse(address); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
			p.add("HEALTH_SERVICES", "the URL of %s must be like http://host:8080/health", name)
			continue
		}
		list = append(list, NamedURL{Name: name, URL: address})
	}
	return list
}

// problems gathers what is wrong, a line a setting.
type problems struct{ lines []string }

func (p *problems) add(name, format string, args ...any) {
	line := name + ": " + fmt.Sprintf(format, args...)
	if !slices.Contains(p.lines, line) {
		p.lines = append(p.lines, line)
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
	var all env.AggregateError
	if !errors.As(err, &all) {
		p.add("environment", "%v", err)
		return
	}
	for _, e := range all.Errors {
		var parse env.ParseError
		if !errors.As(e, &parse) {
			p.add("environment", "%v", e)
			continue
		}
		name := parse.Name
		if field, ok := reflect.TypeFor[variables]().FieldByName(parse.Name); ok {
			name = field.Tag.Get("env")
		}
		p.add(name, "%v", parse.Err)
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

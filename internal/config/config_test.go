package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

func TestDefaultsAreThePlatforms(t *testing.T) {
	cfg, err := FromEnvironment(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := "postgresql://iot@iot-postgres:5432/iotcloud"; cfg.Database.URL != want {
		t.Errorf("URL %q, want %q", cfg.Database.URL, want)
	}
	cfg.Database.URL, cfg.StateDir = "", ""
	want := Config{
		HealthInterval: time.Minute, MetricsInterval: 5 * time.Second, SystemAlerts: true, MetricsRetention: 7 * 24 * time.Hour,
		LeaseTTL: 15 * time.Second, BufferCycles: 720,
		ServiceName: "ops_worker", LogLevel: zerolog.InfoLevel,
		Services: Services{IngestURL: "http://iot-ingest:8080", EvaluatorURL: "http://iot-evaluator:8080", KeycloakRealm: "pulse"},
	}
	want.Database.MinConns, want.Database.MaxConns, want.Database.ConnectTimeout, want.Database.ApplicationName = 2, 10, 10*time.Second, "ops_worker"
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Error(diff)
	}
}

func TestSettings(t *testing.T) {
	for pair, check := range map[string]func(Config) bool{
		"DATABASE_URL=postgres://a:b@c:1/d": func(c Config) bool { return c.Database.URL == "postgres://a:b@c:1/d" },
		"PG_PASS=p@ss/word":                 func(c Config) bool { return strings.Contains(c.Database.URL, "iot:p%40ss%2Fword@") },
		"PG_HOST=::1":                       func(c Config) bool { return strings.Contains(c.Database.URL, "@[::1]:5432/") },
		"HEALTH_CHECK_INTERVAL=90":          func(c Config) bool { return c.HealthInterval == 90*time.Second },
		"HEALTH_CHECK_INTERVAL=2m":          func(c Config) bool { return c.HealthInterval == 2*time.Minute },
		"HEALTH_CHECK_INTERVAL=1":           func(c Config) bool { return c.HealthInterval == 5*time.Second && len(c.Warnings) == 1 },
		"METRICS_COLLECTION_INTERVAL=500ms": func(c Config) bool { return c.MetricsInterval == 500*time.Millisecond && c.BufferCycles == 7200 },
		"METRICS_COLLECTION_INTERVAL=":      func(c Config) bool { return c.MetricsInterval == 5*time.Second },
		"METRICS_RETENTION=30d":             func(c Config) bool { return c.MetricsRetention == 30*24*time.Hour },
		"METRICS_RETENTION=0":               func(c Config) bool { return c.MetricsRetention == 0 },
		"SYSTEM_ALERT_ENABLED=Yes":          func(c Config) bool { return c.SystemAlerts },
		"SYSTEM_ALERT_ENABLED=off":          func(c Config) bool { return !c.SystemAlerts },
		"LOG_LEVEL=WARNING":                 func(c Config) bool { return c.LogLevel == zerolog.WarnLevel },
		"LOG_FORMAT=Console":                func(c Config) bool { return c.LogFormat == "console" },
		"MQTT_HOST=broker":                  func(c Config) bool { return c.Services.MQTTAddress == "broker:1883" },
		"INGEST_HEALTH_URL=http://x:1/":     func(c Config) bool { return c.Services.IngestURL == "http://x:1" },
		"BUFFER_CYCLES=10":                  func(c Config) bool { return c.BufferCycles == 10 },
		"HEALTH_SERVICES=billing=http://b:1/up?a=b , x=https://x": func(c Config) bool {
			return cmp.Equal(c.Services.Further, []NamedURL{{"billing", "http://b:1/up?a=b"}, {"x", "https://x"}})
		},
	} {
		cfg, err := FromEnvironment([]string{pair})
		if err != nil || !check(cfg) {
			t.Errorf("%s: %v, %+v", pair, err, cfg)
		}
	}
}

func TestDatabaseURLWins(t *testing.T) {
	cfg, err := FromEnvironment([]string{"PG_HOST=other", "DATABASE_URL=postgresql://a@b/c"})
	if err != nil || cfg.Database.URL != "postgresql://a@b/c" {
		t.Errorf("%q, %v", cfg.Database.URL, err)
	}
}

func TestEachWrongSettingHasItsMessage(t *testing.T) {
	for pair, want := range map[string]string{
		"DATABASE_URL=mysql://a:hunter2@b/c":           "DATABASE_URL: must start with postgres:// or postgresql://",
		"DATABASE_URL=postgres://a:hunter2/x@b/c":      "DATABASE_URL: not a valid postgres:// URL (characters like @ : / # ? % in a user name or password must be percent-encoded)",
		"NOTIFY_DATABASE_URL=hunter2":                  "NOTIFY_DATABASE_URL: must start with postgres:// or postgresql://",
		"PG_PORT=hunter2":                              "PG_PORT: must be a whole number",
		"PG_PORT=70000":                                "PG_PORT: must be between 1 and 65535",
		"PG_POOL_MAX=0":                                "PG_POOL_MAX: must be between 1 and 1000",
		"PG_POOL_MIN=11":                               "PG_POOL_MIN: must be between 0 and PG_POOL_MAX",
		"DB_CONNECT_TIMEOUT=0":                         "DB_CONNECT_TIMEOUT: must be longer than 0",
		"HEALTH_CHECK_INTERVAL=0":                      "HEALTH_CHECK_INTERVAL: must be longer than 0",
		"HEALTH_CHECK_INTERVAL=hunter2":                "HEALTH_CHECK_INTERVAL: must be a number of seconds or a duration like 30s, 5m or 7d",
		"METRICS_COLLECTION_INTERVAL=-5":               "METRICS_COLLECTION_INTERVAL: must be a number of seconds or a duration like 30s, 5m or 7d",
		"METRICS_COLLECTION_INTERVAL=1ms":              "METRICS_COLLECTION_INTERVAL: must be at least 100ms",
		"METRICS_COLLECTION_INTERVAL=9999999999999999": "METRICS_COLLECTION_INTERVAL: must be a number of seconds or a duration like 30s, 5m or 7d",
		"METRICS_RETENTION=60":                         "METRICS_RETENTION: must be 0 (keep for ever) or at least 1h",
		"LEASE_TTL=1ms":                                "LEASE_TTL: must be at least 1s",
		"BUFFER_CYCLES=9999999":                        "BUFFER_CYCLES: must be between 1 and 1000000",
		"SYSTEM_ALERT_ENABLED=maybe":                   "SYSTEM_ALERT_ENABLED: must be true or false (or 1, yes, on, 0, no, off)",
		"LOG_LEVEL=hunter2":                            "LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL",
		"LOG_FORMAT=hunter2":                           "LOG_FORMAT: must be json or console",
		"MQTT_PORT=0":                                  "MQTT_PORT: must be between 1 and 65535",
		"INGEST_HEALTH_URL=iot-ingest:8080":            "INGEST_HEALTH_URL: must be a URL like http://host:8080",
		"KEYCLOAK_INTERNAL_URL=ftp://hunter2":          "KEYCLOAK_INTERNAL_URL: must be a URL like http://host:8080",
		"HEALTH_SERVICES=http://hunter2":               "HEALTH_SERVICES: entry 1 is not of the form name=url",
		"HEALTH_SERVICES=a=http://a,Hunter2=http://b":  "HEALTH_SERVICES: the name of entry 2 must be 1 to 64 characters of a-z 0-9 _ -",
		"HEALTH_SERVICES=a=http://a,a=http://b":        "HEALTH_SERVICES: a is there twice",
		"HEALTH_SERVICES=postgres=http://a":            "HEALTH_SERVICES: postgres is a name of the platform's own",
		"HEALTH_SERVICES=a=hunter2":                    "HEALTH_SERVICES: the URL of a must be like http://host:8080/health",
	} {
		_, err := FromEnvironment([]string{pair})
		var settings *Error
		if !errors.As(err, &settings) {
			t.Errorf("%s: %v", pair, err)
			continue
		}
		if diff := cmp.Diff([]string{want}, settings.Problems); diff != "" {
			t.Errorf("%s: %s", pair, diff)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error quotes the value: %v", pair, err)
		}
	}
}

func TestAllWrongSettingsAreReportedTogether(t *testing.T) {
	_, err := FromEnvironment([]string{"PG_PORT=x", "LOG_LEVEL=x", "HEALTH_SERVICES=A=b,c", "MQTT_PORT=0"})
	for _, name := range []string{"PG_PORT", "LOG_LEVEL", "HEALTH_SERVICES: entry 2", "HEALTH_SERVICES: the name of entry 1", "MQTT_PORT"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
}

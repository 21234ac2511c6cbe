package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"ops_worker/db/pgurl"
)

func TestDefaultsAreThePlatforms(t *testing.T) {
	c, err := FromEnvironment(nil)
	if err != nil {
		t.Fatal(err)
	}
	d := c.Database
	for name, ok := range map[string]bool{
		"PG_HOST, PG_PORT, PG_DB, PG_USER": d.URL == "postgresql://iot@iot-postgres:5432/iotcloud",
		"PG_POOL_MIN, PG_POOL_MAX":         d.MinConns == 2 && d.MaxConns == 10,
		"HEALTH_CHECK_INTERVAL":            c.HealthInterval == time.Minute,
		"METRICS_COLLECTION_INTERVAL":      c.MetricsInterval == 5*time.Second,
		"SYSTEM_ALERT_ENABLED":             c.SystemAlerts,
		"SERVICE_NAME":                     c.ServiceName == "ops_worker",
		"LOG_LEVEL":                        c.LogLevel == Level(zerolog.InfoLevel),
		"KEYCLOAK_REALM":                   c.KeycloakRealm == "pulse",
		"MQTT_PORT":                        c.MQTTPort == 1883,
		// Ours.
		"METRICS_RETENTION": c.MetricsRetention == 7*24*time.Hour,
		"LEASE_TTL":         c.LeaseTTL == 15*time.Second,
		"BUFFER_CYCLES":     c.BufferCycles == 720,
	} {
		if !ok {
			t.Errorf("default of %s: %+v", name, c)
		}
	}
	if diff := cmp.Diff([]string{"ingest http://iot-ingest:8080/health", "evaluator http://iot-evaluator:8080/health", "postgres"}, addresses(c)); diff != "" {
		t.Error(diff)
	}
}

// addresses are the monitored services and where each is asked.
func addresses(c Config) []string {
	var list []string
	for _, s := range c.Services {
		list = append(list, strings.Join(append([]string{s.Name}, s.Addresses...), " "))
	}
	return list
}

// where is each service of the platform asked, with which settings.
var where = map[string]struct{ settings, address string }{
	"ingest":     {"INGEST_HEALTH_URL=http://a", "http://a/health"},
	"evaluator":  {"EVALUATOR_HEALTH_URL=http://b/", "http://b/health"},
	"dispatcher": {"DISPATCHER_HEALTH_URL=http://c", "http://c/health"},
	"delivery":   {"DELIVERY_HEALTH_URL=http://d", "http://d/health"},
	"keycloak":   {"KEYCLOAK_INTERNAL_URL=http://e/ KEYCLOAK_REALM=other", "http://e/realms/other"},
	"mqtt":       {"MQTT_HOST=f MQTT_PORT=1", "f:1"},
	"postgres":   {"", ""},
}

func TestEveryServiceHasItsSetting(t *testing.T) {
	environ := []string{"HEALTH_SERVICES=billing=http://g/up?full=1"}
	for _, w := range where {
		environ = append(environ, strings.Fields(w.settings)...)
	}
	cfg, err := FromEnvironment(environ)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range PlatformServices() {
		want, ok := where[s.Name]
		if !ok {
			t.Errorf("a service that the tests do not know: add %s to where in config_test.go, with its settings and its address", s.Name)
			continue
		}
		i := slices.IndexFunc(cfg.Services, func(monitored Service) bool { return monitored.Name == s.Name })
		if i < 0 || strings.Join(cfg.Services[i].Addresses, " ") != want.address {
			t.Errorf("%s: %+v, want %s", s.Name, cfg.Services, want.address)
		}
	}
	if last := cfg.Services[len(cfg.Services)-1]; last.Name != "billing" || !cmp.Equal(last.Addresses, []string{"http://g/up?full=1"}) || !last.Extra {
		t.Errorf("the extra service: %+v", last)
	}
}

func TestSettings(t *testing.T) {
	for pair, check := range map[string]func(Config) bool{
		"DATABASE_URL=postgres://a:b@c:1/d": func(c Config) bool { return c.Database.URL == "postgres://a:b@c:1/d" },
		"PG_PASS=p@ss/word":                 func(c Config) bool { return strings.Contains(c.Database.URL, "iot:p%40ss%2Fword@") },
		"PG_PASS= blank at both ends ":      func(c Config) bool { return strings.Contains(c.Database.URL, "iot:%20blank%20at%20both%20ends%20@") },
		"PG_HOST=/var/run/postgresql": func(c Config) bool {
			return strings.Contains(c.Database.URL, "@/iotcloud?host=%2Fvar%2Frun%2Fpostgresql&port=5432")
		},
		"HEALTH_CHECK_INTERVAL=7.5":             func(c Config) bool { return c.HealthInterval == 7500*time.Millisecond },
		"METRICS_RETENTION=1.5d":                func(c Config) bool { return c.MetricsRetention == 36*time.Hour },
		"MQTT_HOST=::1":                         func(c Config) bool { return slices.Contains(addresses(c), "mqtt [::1]:1883") },
		"PG_HOST=::1":                           func(c Config) bool { return strings.Contains(c.Database.URL, "@[::1]:5432/") },
		"HEALTH_CHECK_INTERVAL=90":              func(c Config) bool { return c.HealthInterval == 90*time.Second },
		"HEALTH_CHECK_INTERVAL=2m":              func(c Config) bool { return c.HealthInterval == 2*time.Minute },
		"HEALTH_CHECK_INTERVAL=1":               func(c Config) bool { return c.HealthInterval == 5*time.Second && len(c.Warnings) == 1 },
		"METRICS_COLLECTION_INTERVAL=500ms":     func(c Config) bool { return c.MetricsInterval == 500*time.Millisecond && c.BufferCycles == 7200 },
		"METRICS_COLLECTION_INTERVAL=":          func(c Config) bool { return c.MetricsInterval == 5*time.Second },
		"PG_POOL_MAX=1":                         func(c Config) bool { return c.Database.MinConns == 1 && c.Database.MaxConns == 1 },
		"KEYCLOAK_INTERNAL_URL=http://k/health": func(c Config) bool { return slices.Contains(addresses(c), "keycloak http://k/health/realms/pulse") },
		"METRICS_RETENTION=30d":                 func(c Config) bool { return c.MetricsRetention == 30*24*time.Hour },
		"METRICS_RETENTION=0":                   func(c Config) bool { return c.MetricsRetention == 0 },
		"SYSTEM_ALERT_ENABLED=Yes":              func(c Config) bool { return c.SystemAlerts },
		"SYSTEM_ALERT_ENABLED=off":              func(c Config) bool { return !c.SystemAlerts },
		"LOG_LEVEL=WARNING":                     func(c Config) bool { return c.LogLevel == Level(zerolog.WarnLevel) },
		"LOG_FORMAT=Console":                    func(c Config) bool { return c.LogFormat == "console" },
		"MQTT_HOST=broker":                      func(c Config) bool { return slices.Contains(addresses(c), "mqtt broker:1883") },
		"INGEST_HEALTH_URL=http://x:1/":         func(c Config) bool { return slices.Contains(addresses(c), "ingest http://x:1/health") },
		"INSTANCES=off":                         func(c Config) bool { return !c.Instances },
		"INSTANCES=":                            func(c Config) bool { return c.Instances },
		"INGEST_HEALTH_URL=http://x:1/, http://y:1": func(c Config) bool {
			return slices.Contains(addresses(c), "ingest http://x:1/health http://y:1/health")
		},
		"MQTT_HOST=b1, ::1": func(c Config) bool { return slices.Contains(addresses(c), "mqtt b1:1883 [::1]:1883") },
		"BUFFER_CYCLES=10":  func(c Config) bool { return c.BufferCycles == 10 },
		"HEALTH_SERVICES=billing=http://b:1/up?a=b , x=https://x": func(c Config) bool {
			return cmp.Equal(addresses(c)[3:], []string{"billing http://b:1/up?a=b", "x https://x"})
		},
		"HEALTH_SERVICES=broker=tcp://mqtt:1883,six=TLS://[::1]:8883,four=tls://192.0.2.1:443": func(c Config) bool {
			kinds := []ProbeKind{c.Services[3].Kind, c.Services[4].Kind, c.Services[5].Kind}
			return cmp.Equal(addresses(c)[3:], []string{"broker mqtt:1883", "six [::1]:8883", "four 192.0.2.1:443"}) &&
				cmp.Equal(kinds, []ProbeKind{ProbeTCP, ProbeTLS, ProbeTLS}) && c.Services[3].Extra
		},
	} {
		cfg, err := FromEnvironment([]string{pair})
		if err != nil || !check(cfg) {
			t.Errorf("%s: %v, %+v", pair, err, cfg)
		}
	}
}

// The alert of a service that is monitored under the older name is its own.
func TestAFormerNameThatIsMonitoredIsNone(t *testing.T) {
	for extra, want := range map[string]string{"": "delivery_worker", "delivery_worker=http://d/health": ""} {
		cfg, err := FromEnvironment([]string{"DELIVERY_HEALTH_URL=http://d", "HEALTH_SERVICES=" + extra})
		if err != nil || cfg.Services[2].Name != "delivery" || cfg.Services[2].Former != want {
			t.Errorf("with %q: %v, %+v", extra, err, cfg.Services)
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
		"DATABASE_URL=mysql://a:hunter2@b/c":                                             "DATABASE_URL: must start with postgres:// or postgresql://",
		"DATABASE_URL=postgres://a:hunter2/x@b/c":                                        "DATABASE_URL: not a valid postgres:// URL (characters like @ : / # ? % in a user name or password must be percent-encoded)",
		"DATABASE_URL=postgres://a:hunter2@b/c?sslmode=yes":                              "DATABASE_URL: the parameter sslmode must be disable, allow, prefer, require, verify-ca or verify-full",
		"DATABASE_URL=postgres://a:hunter2@b/c?sslrootcert=/hunter2&sslmode=verify-full": "DATABASE_URL: the parameter sslrootcert must be a file with certificates that can be read",
		"DATABASE_URL=postgres://a:hunter2@b/c?connect_timeout=1.5":                      "DATABASE_URL: the parameter connect_timeout must be a whole number of seconds",
		"DATABASE_URL=postgres://a:hunter2@b/c?connect_timeout=x&sslmode=y":              "DATABASE_URL: the parameter connect_timeout must be a whole number of seconds; the parameter sslmode must be disable, allow, prefer, require, verify-ca or verify-full",
		"MQTT_HOST=hunter2:1883":                                                         "MQTT_HOST: must be a host alone, without brackets: the port goes into MQTT_PORT",
		"PG_HOST=hunter2:5432":                                                           "PG_HOST: must be a host alone, without brackets: the port goes into PG_PORT",
		"PG_HOST=[::1]":                                                                  "PG_HOST: must be a host alone, without brackets: the port goes into PG_PORT",
		"MQTT_HOST=[::1]:1883":                                                           "MQTT_HOST: must be a host alone, without brackets: the port goes into MQTT_PORT",
		"MQTT_HOST=mqtt://h":                                                             "MQTT_HOST: must be a host alone, without brackets: the port goes into MQTT_PORT",
		"LOG_LEVEL=20":                                                                   "LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL",
		"LOG_LEVEL=disabled":                                                             "LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL",
		"LEASE_TTL=inf":                                                                  "LEASE_TTL: " + errDuration.Error(),
		"LEASE_TTL=1e3":                                                                  "LEASE_TTL: " + errDuration.Error(),
		"PG_PORT=hunter2":                                                                "PG_PORT: must be a whole number",
		"PG_PORT=70000":                                                                  "PG_PORT: must be between 1 and 65535",
		"PG_POOL_MAX=0":                                                                  "PG_POOL_MAX: must be between 1 and 1000",
		"PG_POOL_MIN=11":                                                                 "PG_POOL_MIN: must be between 0 and PG_POOL_MAX",
		"DB_CONNECT_TIMEOUT=0":                                                           "DB_CONNECT_TIMEOUT: must be longer than 0",
		"HEALTH_CHECK_INTERVAL=hunter2":                                                  "HEALTH_CHECK_INTERVAL: must be a number of seconds or a duration like 30s, 5m or 7d",
		"METRICS_COLLECTION_INTERVAL=-5":                                                 "METRICS_COLLECTION_INTERVAL: must be a number of seconds or a duration like 30s, 5m or 7d",
		"METRICS_COLLECTION_INTERVAL=1ms":                                                "METRICS_COLLECTION_INTERVAL: must be at least 100ms",
		"METRICS_COLLECTION_INTERVAL=9999999999999999":                                   "METRICS_COLLECTION_INTERVAL: must be a number of seconds or a duration like 30s, 5m or 7d",
		"METRICS_RETENTION=60":                                                           "METRICS_RETENTION: must be 0 (keep for ever) or at least 1h",
		"LEASE_TTL=1ms":                                                                  "LEASE_TTL: must be at least 1s",
		"BUFFER_CYCLES=9999999":                                                          "BUFFER_CYCLES: must be between 1 and 1000000",
		"SYSTEM_ALERT_ENABLED=maybe":                                                     "SYSTEM_ALERT_ENABLED: must be true or false (or 1, yes, on, 0, no, off)",
		"LOG_LEVEL=hunter2":                                                              "LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL",
		"LOG_FORMAT=hunter2":                                                             "LOG_FORMAT: must be json or console",
		"MQTT_PORT=0":                                                                    "MQTT_PORT: must be between 1 and 65535",
		"INGEST_HEALTH_URL=iot-ingest:8080":                                              "INGEST_HEALTH_URL: must be a URL like http://host:8080",
		"EVALUATOR_HEALTH_URL=http://iot-evaluator:99999":                                "EVALUATOR_HEALTH_URL: must be a URL like http://host:8080",
		"KEYCLOAK_INTERNAL_URL=ftp://hunter2":                                            "KEYCLOAK_INTERNAL_URL: must be a URL like http://host:8080",
		"DATABASE_URL=postgres://a:hun@ter2@b/c":                                         "DATABASE_URL: " + pgurl.ErrInvalid.Error(),
		"DATABASE_URL=postgres://a:p@hunter2#w@b/c":                                      "DATABASE_URL: " + pgurl.ErrInvalid.Error(),
		"DATABASE_URL=postgres://a:12/3hunter2@b/c":                                      "DATABASE_URL: " + pgurl.ErrInvalid.Error(),
		"INGEST_HEALTH_URL=http://x,hunter2":                                             "INGEST_HEALTH_URL: must be a URL like http://host:8080",
		"INGEST_HEALTH_URL=http://x,":                                                    "INGEST_HEALTH_URL: must be a URL like http://host:8080",
		"INGEST_HEALTH_URL=http://x/,http://x":                                           "INGEST_HEALTH_URL: names an instance twice",
		"DELIVERY_HEALTH_URL=" + manyURLs(257):                                           "DELIVERY_HEALTH_URL: may name at most 256 instances of a service",
		"HEALTH_SERVICES=a=http://hunter2,http://hunter2":                                "HEALTH_SERVICES: entry 2 is not of the form name=url: a second URL has a name of its own",
		"MQTT_HOST=a,":                                                                   "MQTT_HOST: must be a host name or an address",
		"ALERT_WEBHOOK_URL=hooks/hunter2":                                                "ALERT_WEBHOOK_URL: must be a URL like http://host:8080",
		"ALERT_WEBHOOK_URL=ftp://h/hunter2":                                              "ALERT_WEBHOOK_URL: must be a URL like http://host:8080",
		"ALERT_WEBHOOK_FORMAT=hunter2":                                                   "ALERT_WEBHOOK_FORMAT: must be json, slack or alertmanager",
		"HEARTBEAT_URL=hc-ping.com/hunter2":                                              "HEARTBEAT_URL: must be a URL like http://host:8080",
		"INSTANCES=some":                                                                 "INSTANCES: must be true or false (or 1, yes, on, 0, no, off)",
		"INGEST_HEALTH_URL=http://x?hunter2":                                             "INGEST_HEALTH_URL: must end with the host, the port or a path: a query or a fragment cannot be sent",
		"INGEST_HEALTH_URL=http://x/health/":                                             "INGEST_HEALTH_URL: must not end in /health, which is added",
		"HEALTH_SERVICES=http://hunter2":                                                 "HEALTH_SERVICES: entry 1 is not of the form name=url: a second URL has a name of its own",
		"HEALTH_SERVICES=a=http://a,Hunter2=http://b":                                    "HEALTH_SERVICES: the name of entry 2 must be 1 to 64 characters of a-z 0-9 _ -",
		"HEALTH_SERVICES=a=http://a,a=http://b":                                          "HEALTH_SERVICES: a is there twice",
		"HEALTH_SERVICES=postgres=http://a":                                              "HEALTH_SERVICES: postgres is a name of the platform's own",
		"HEALTH_SERVICES=a=hunter2":                                                      wrongURL,
		"HEALTH_SERVICES=a=ftp://hunter2:21":                                             wrongURL,
		"HEALTH_SERVICES=a=tcp://hunter2":                                                wrongSocket("tcp"),
		"HEALTH_SERVICES=a=TCP://hunter2:0":                                              wrongSocket("tcp"),
		"HEALTH_SERVICES=a=tcp://hunter2:65536":                                          wrongSocket("tcp"),
		"HEALTH_SERVICES=a=tcp://:1883":                                                  wrongSocket("tcp"),
		"HEALTH_SERVICES=a=tcp://u:hunter2@h:1883":                                       wrongSocket("tcp"),
		"HEALTH_SERVICES=a=tls://hunter2@h:8883":                                         wrongSocket("tls"),
		"HEALTH_SERVICES=a=tls://h:8883/hunter2":                                         wrongSocket("tls"),
		"HEALTH_SERVICES=a=tls://h:8883?hunter2":                                         wrongSocket("tls"),
		"HEALTH_SERVICES=a=tls://::1:8883":                                               wrongSocket("tls"),
		"HEALTH_SERVICES=a=tls://::1":                                                    wrongSocket("tls"),
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

const wrongURL = "HEALTH_SERVICES: the URL of a must be like http://host:8080/health, tcp://host:1883 or tls://host:8883"

func wrongSocket(scheme string) string {
	return "HEALTH_SERVICES: the URL of a must be " + scheme + "://host:port, an IPv6 address in brackets, and nothing else: no user, password or path"
}

func TestHowManyExtraServicesThereMayBe(t *testing.T) {
	t.Parallel()
	list := func(n int, entry string) string {
		entries := make([]string, n)
		for i := range entries {
			entries[i] = fmt.Sprintf(entry, i)
		}
		return "HEALTH_SERVICES=" + strings.Join(entries, ",")
	}
	c, err := FromEnvironment([]string{list(MaxExtra, "s%d=http://h/%[1]d")})
	if err != nil || len(c.Services) != MaxExtra+3 {
		t.Errorf("%d services, %v", len(c.Services), err)
	}
	const tooMany = "HEALTH_SERVICES: may name at most 250 services"
	for pair, want := range map[string][]string{
		list(MaxExtra+1, "s%d=http://h"): {tooMany},
		list(50_000, "a=http://%d"):      {"HEALTH_SERVICES: a is there twice"},
	} {
		_, err := FromEnvironment([]string{pair})
		var settings *Error
		if !errors.As(err, &settings) {
			t.Fatalf("%.40s: %v", pair, err)
		}
		if diff := cmp.Diff(want, settings.Problems); diff != "" {
			t.Errorf("%.40s: %s", pair, diff)
		}
	}
}

// manyURLs is a list of so many instances.
func manyURLs(n int) string {
	urls := make([]string, n)
	for i := range urls {
		urls[i] = fmt.Sprintf("http://h%d", i)
	}
	return strings.Join(urls, ",")
}

func TestAllWrongSettingsAreReportedTogether(t *testing.T) {
	_, err := FromEnvironment([]string{"PG_PORT=x", "LOG_LEVEL=x", "HEALTH_SERVICES=A=b,c", "MQTT_PORT=0"})
	for _, name := range []string{"PG_PORT", "LOG_LEVEL", "HEALTH_SERVICES: entry 2", "HEALTH_SERVICES: the name of entry 1", "MQTT_PORT"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not in %v", name, err)
		}
	}
}

// FuzzPassword puts any password into DATABASE_URL as it is: what is shown of
// the target, or of the error, never holds a part of it.
func FuzzPassword(f *testing.F) {
	for _, password := range []string{"hun@ter2", "p@ss#word", "12/3secret", "a?b=secret", "[::1]secret", "%41secret", "sec:ret", "sec\\ret", "secret ", "s%zzecret"} {
		f.Add(password)
	}
	for c := ' '; c <= '~'; c++ {
		f.Add("xyz" + string(c) + "zyx")
	}
	f.Fuzz(func(t *testing.T, password string) {
		if len(password) < 3 || strings.ContainsAny(password, "\x00\n") {
			t.Skip("too short to be told from other words")
		}
		const host, database, user = "QQQ", "DDD", "UUU"
		c, err := FromEnvironment([]string{"DATABASE_URL=postgres://" + user + ":" + password + "@" + host + "/" + database})
		shown := ""
		if err != nil {
			shown = strings.ReplaceAll(err.Error(), "DATABASE_URL: "+pgurl.ErrInvalid.Error(), "")
			shown = strings.ReplaceAll(shown, "wrong settings:\n", "")
		} else {
			pool, err := pgurl.Parse(c.Database.URL)
			if err != nil {
				t.Fatal(err)
			}
			target := pool.ConnConfig
			shown = fmt.Sprint(target.Host, " ", target.Database, " ", target.User)
			shown = strings.NewReplacer(host, "", database, "", user, "").Replace(shown)
		}
		if strings.TrimSpace(shown) != "" {
			t.Errorf("password %q: %q is shown", password, shown)
		}
	})
}

// FuzzSetting gives any setting any value: the error names the setting, and does
// not show the value.
func FuzzSetting(f *testing.F) {
	names := slices.Sorted(maps.Values(variables()))
	for i := range names {
		for _, value := range []string{"", "secret words", "-1", "1e9", "NaN", "9999999999999999999", "http://user:secret@[::1", "postgres://u:se@cret@h/d?sslmode=x", "a=b,c", "\xff", "7d", "%zz"} {
			f.Add(uint(i), value)
		}
	}
	// Words of the messages are no parts of a value.
	words := pgurl.ErrInvalid.Error() + syscall.ENOENT.Error() + syscall.EINVAL.Error() + syscall.ENOTDIR.Error() + syscall.EISDIR.Error() + syscall.ENAMETOOLONG.Error()
	for _, file := range []string{"config.go", "database.go", "files.go", "parse.go", "services.go", "../../db/pgurl/pgurl.go"} {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		words += string(content)
	}
	f.Fuzz(func(t *testing.T, which uint, value string) {
		name := names[which%uint(len(names))]
		_, err := FromEnvironment([]string{name + "=" + value})
		if err == nil {
			return
		}
		var wrong *Error
		if !errors.As(err, &wrong) {
			t.Fatalf("%s=%q: %v", name, value, err)
		}
		for _, problem := range wrong.Problems {
			// PG_HOST, PG_DB and PG_USER are judged together.
			if !strings.HasPrefix(problem, name+": ") && !strings.Contains(problem, "PG_HOST, PG_DB and PG_USER") {
				t.Errorf("%s=%q: %s", name, value, problem)
			}
			if shown := strings.TrimSpace(value); len(shown) > 3 && name != ExtraServicesVariable && !strings.Contains(words, shown) && strings.Contains(problem, shown) {
				t.Errorf("%s=%q is shown: %s", name, value, problem)
			}
		}
	})
}

func TestASecretMayStandInAFile(t *testing.T) {
	t.Parallel()
	write := func(content string) string {
		name := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const url = "postgres://iot:hunter2@db:6432/iotcloud"
	c, err := FromEnvironment([]string{"DATABASE_URL_FILE=" + write("  "+url+"\n"),
		"HEALTH_SERVICES_FILE=" + write("a=http://a/health\nb=http://b/health,\n\n  c=http://c/health\n")})
	if err != nil || c.Database.URL != url {
		t.Errorf("%q, %v", c.Database.URL, err)
	}
	if n := len(c.Services); err == nil && c.Services[n-1].Name != "c" {
		t.Errorf("services: %+v", c.Services)
	}
	c, err = FromEnvironment([]string{"PG_PASS_FILE=" + write(" p@ss word \n")})
	if want := "postgresql://iot:%20p%40ss%20word%20@iot-postgres:5432/iotcloud"; err != nil || c.Database.URL != want {
		t.Errorf("%q, want %q, %v", c.Database.URL, want, err)
	}
	if again, err := c.Database.Reload()(); err != nil || again != c.Database.URL {
		t.Errorf("read again: %q, %v", again, err)
	}

	for _, test := range []struct{ setting, want string }{
		{"DATABASE_URL_FILE=/nowhere/hunter2", "DATABASE_URL_FILE: the file cannot be read: no such file or directory"},
		{"DATABASE_URL_FILE=" + write(" \n"), "DATABASE_URL_FILE: the file is empty"},
		{"DATABASE_URL_FILE=" + write("mysql://hunter2"), "DATABASE_URL_FILE: must start with postgres://"},
		{"PG_PASS_FILE=" + t.TempDir(), "PG_PASS_FILE: the file cannot be read: is a directory"},
		{"PG_PASS_FILE=" + write(strings.Repeat("x", maxFile+1)), "PG_PASS_FILE: the file is longer than 1 MiB"},
		{"HEALTH_SERVICES_FILE=" + write("hunter2"), "HEALTH_SERVICES"},
		{"ALERT_WEBHOOK_URL_FILE=" + write("hunter2"), "ALERT_WEBHOOK_URL: must be a URL"},
		{"HEALTH_CA_FILE=" + write("hunter2"), "HEALTH_CA_FILE: the file holds no certificate"},
	} {
		_, err := FromEnvironment([]string{test.setting})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
	for _, name := range []string{"DATABASE_URL", "PG_PASS", "HEALTH_SERVICES"} {
		_, err := FromEnvironment([]string{name + "_FILE=" + write("hunter2"), name + "=postgres://hunter2@h/d"})
		if err == nil || !strings.Contains(err.Error(), name+"_FILE: goes without "+name) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("both of %s: %v", name, err)
		}
	}
}

// A rotation may leave anything in the file for a moment.
func TestASecretThatIsReadAgain(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "url")
	write := func(content string) {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("postgres://iot:first@db/iotcloud")
	c, err := FromEnvironment([]string{"DATABASE_URL_FILE=" + name})
	if err != nil {
		t.Fatal(err)
	}
	reload := c.Database.Reload()
	write("postgres://iot:second@db/iotcloud\n")
	if address, err := reload(); err != nil || address != "postgres://iot:second@db/iotcloud" {
		t.Errorf("%q, %v", address, err)
	}
	for content, want := range map[string]string{"": "DATABASE_URL_FILE: the file is empty", "hun@ter2": "DATABASE_URL_FILE: must start with"} {
		write(content)
		if _, err := reload(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(); err == nil || !strings.Contains(err.Error(), "DATABASE_URL_FILE: the file cannot be read") {
		t.Errorf("%v", err)
	}
	write("hunter2")
	if c, err = FromEnvironment([]string{"DATABASE_URL=postgres://iot@db/iotcloud", "PG_PASS_FILE=" + name}); err != nil || c.Database.Reload() != nil {
		t.Errorf("DATABASE_URL wins over what the single settings would make: %v", err)
	}
	if c, err = FromEnvironment(nil); err != nil || c.Database.Reload() != nil {
		t.Errorf("without a file nothing is read again: %v", err)
	}
}

func TestThePlaceOfThePlatformsWorker(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"S3_ENDPOINT", "EMQX_API_URL", "DEVICE_CA_KEY_PATH", "OTA_URL_TTL"} {
		c, err := FromEnvironment([]string{name + "=hunter2"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.InPlatformWorkersPlace(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "certificates") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
		if c, _ = FromEnvironment([]string{name + "=hunter2", "REPLACE_PLATFORM_WORKER=true"}); c.InPlatformWorkersPlace() != nil {
			t.Errorf("%s is not accepted", name)
		}
	}
	// What Kubernetes sets for services of these names, and what every worker has.
	c, err := FromEnvironment([]string{"OTA_SERVICE_HOST=10.0.0.1", "OTA_SERVICE_PORT=80", "OTA_SERVICE_PORT_HTTP=80", "OTA_PORT=tcp://10.0.0.1:80",
		"OTA_PORT_80_TCP=tcp://10.0.0.1:80", "OTA_PORT_80_TCP_ADDR=10.0.0.1", "S3_SERVICE_HOST=10.0.0.1", "OTA_URL=", "MQTT_BROKER_URL=mqtt://x"})
	if err != nil || c.InPlatformWorkersPlace() != nil {
		t.Errorf("%v, %v", err, c.InPlatformWorkersPlace())
	}
}

// A variable that is nearly one of ours is a warning; one of the driver's or of another
// service of the platform is none.
func TestMisspeltVariables(t *testing.T) {
	for name, want := range map[string]string{
		"METRICS_COLECTION_INTERVAL": "METRICS_COLECTION_INTERVAL is no setting: is METRICS_COLLECTION_INTERVAL meant?",
		"PG_POOL_MXA":                "PG_POOL_MXA is no setting: is PG_POOL_MAX or PG_POOL_MIN meant?",
		"INGEST_HEALT_URL":           "INGEST_HEALT_URL is no setting: is INGEST_HEALTH_URL meant?",
		"HEALTH_SERVICE":             "HEALTH_SERVICE is no setting: is HEALTH_SERVICES meant?",
		"LOGLEVEL":                   "LOGLEVEL is no setting: is LOG_LEVEL meant?",
		"PG_PASSWORD":                "PG_PASSWORD is no setting: is PG_PASS meant?",
		"PG_HOSTNAME":                "PG_HOSTNAME is no setting: is PG_HOST meant?",
		"MIGRATE_DATABASE_URL_FILE":  "MIGRATE_DATABASE_URL_FILE is no setting any more: run `ops-worker migrate up` and `ops-worker grants` as that role",
		"INGEST_HEALTH_URL_V2":       "",
		"PG_SERVICE_HOST":            "",
		"PGHOST":                     "",
		"MQTT_BROKER_URL":            "",
		"EMQX_API_URL":               "",
		"KEYCLOAK_URL":               "",
		"PATH":                       "",
		"LOG_LEVEL":                  "",
	} {
		cfg, err := FromEnvironment([]string{"DATABASE_URL=postgres://iot@db/iotcloud", name + "=1", "LOG_LEVEL=INFO"})
		if err != nil && want != "" {
			t.Fatal(err)
		}
		if got := strings.Join(cfg.Warnings, "; "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestSettingsThatTellNobodyAreWarnedOf(t *testing.T) {
	for settings, want := range map[string]string{
		"ALERT_WEBHOOK_FORMAT=slack":                            "ALERT_WEBHOOK_FORMAT tells nobody: ALERT_WEBHOOK_URL is not set",
		"SYSTEM_ALERT_ENABLED=off ALERT_WEBHOOK_URL=http://h":   "ALERT_WEBHOOK_URL is told nothing: SYSTEM_ALERT_ENABLED is off",
		"ALERT_WEBHOOK_FORMAT=slack ALERT_WEBHOOK_URL=http://h": "",
	} {
		cfg, err := FromEnvironment(strings.Fields(settings))
		if got := strings.Join(cfg.Warnings, "; "); err != nil || got != want {
			t.Errorf("%s: %q, want %q; %v", settings, got, want, err)
		}
	}
}

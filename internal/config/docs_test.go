package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"ops_worker/internal/certtest"
)

func TestEverySettingIsWhereItsUsersLook(t *testing.T) {
	t.Parallel()
	for file, how := range map[string]struct {
		pattern string // NAME stands for the setting's
		but     string // the one that has no place there
		do      string
	}{
		"docs/configuration.md": {pattern: "(?m)^\\| `NAME` \\| ", do: "add its row, with its default and an example"},
		"compose.yaml":          {pattern: `(?m)^      NAME:`, do: "add it to the environment of ops-worker, so that it can be set there"},
		// In the place of the platform's worker neither of the files that extend this one stands.
		"compose.worker.yaml": {pattern: `(?m)^      (# )?NAME:`, but: "REPLACE_PLATFORM_WORKER",
			do: "add it to the environment, in a comment where most installations do not need it"},
	} {
		content, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variables() {
			if named := regexp.MustCompile(strings.ReplaceAll(how.pattern, "NAME", name)).Match(content); named == (name == how.but) {
				t.Errorf("%s names %s: %v: %s", file, name, named, how.do)
			}
		}
	}
}

// setting is a row of docs/configuration.md, its cells without the code marks.
type setting struct{ name, standard, example string }

func documentedSettings(t *testing.T) (rows []setting) {
	t.Helper()
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, cells := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| (.*?) ?\\| `(.+?)` \\| ").FindAllStringSubmatch(string(page), -1) {
		rows = append(rows, setting{cells[1], strings.Trim(cells[2], "`"), cells[3]})
	}
	return rows
}

func TestTheDocumentedDefaultsAreTheDefaults(t *testing.T) {
	t.Parallel()
	defaults := map[string]string{}
	for _, field := range append(reflect.VisibleFields(reflect.TypeFor[Config]()), reflect.VisibleFields(reflect.TypeFor[Database]())...) {
		defaults[field.Tag.Get("env")] = field.Tag.Get("envDefault")
	}
	for _, s := range platformServices {
		defaults[s.Variable] = s.fallback
	}
	documented := documentedSettings(t)
	if len(documented) != len(variables()) {
		t.Errorf("%d of %d settings have a row with an example", len(documented), len(variables()))
	}
	computed := []string{"BUFFER_CYCLES", "STATE_DIR", "LOG_FORMAT"} // described in words
	for _, row := range documented {
		if row.standard != defaults[row.name] && !slices.Contains(computed, row.name) {
			t.Errorf("the default of %s is %q, and %q on the page", row.name, defaults[row.name], row.standard)
		}
	}
}

func TestTheDocumentedExamplesAreAccepted(t *testing.T) {
	t.Parallel()
	certificates, err := os.ReadFile(certtest.New(t).File)
	if err != nil {
		t.Fatal(err)
	}
	examples := map[string]string{}
	for _, row := range documentedSettings(t) {
		examples[row.name] = row.example
	}
	for name, example := range examples {
		if contents, isFile := strings.CutSuffix(name, "_FILE"); isFile {
			content := examples[contents]
			if name == "HEALTH_CA_FILE" {
				content = string(certificates)
			}
			example = filepath.Join(t.TempDir(), "content")
			if err := os.WriteFile(example, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		environ := []string{name + "=" + example}
		if name == "ALERT_WEBHOOK_FORMAT" {
			environ = append(environ, "ALERT_WEBHOOK_URL=http://a")
		}
		c, err := FromEnvironment(environ)
		if err != nil || len(c.Warnings) > 0 {
			t.Errorf("%s: %v %v", name, err, c.Warnings)
		}
	}
}

// Which numbers a service has is held against docs/metrics.md where they are stored.
func TestTheOperationPageSaysHowEachServiceIsAsked(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "## What counts as healthy")
	table, _, _ = strings.Cut(table, "an extra service")
	for _, s := range platformServices {
		if !strings.Contains(strings.ToLower(table), s.Name) {
			t.Errorf("the table does not have %s", s.Name)
		}
	}
}

// runbook are the endpoints that the platform's runbook lists.
var runbook = []string{
	"http://ui:8080/health", "http://api:8081/health", "http://route-delivery:8080/health", "http://mqtt:18083/api/v5/status",
	"http://prometheus:9090/-/healthy", "http://minio:9000/minio/health/live", "http://nats:8222/healthz", "http://grafana:3001/api/health",
}

// What the two files have in comments is right once it is uncommented, and holds every
// endpoint. A name that does not exist would be an alert that stays open.
func TestTheListsToUncommentAreSettings(t *testing.T) {
	t.Parallel()
	commented := regexp.MustCompile(`(?m)^( +)# (- name: |  value: |  +[a-z-]+=|[A-Z_]+: )`)
	for file, broker := range map[string]string{"compose.worker.yaml": "iot-mqtt:1883", "deploy/kubernetes/overlays/platform/deployment.yaml": "pulse-emqx:1883"} {
		content, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		var tree yaml.Node
		if err := yaml.Unmarshal(commented.ReplaceAll(content, []byte("$1$2")), &tree); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var environ []string
		for _, name := range []string{"DISPATCHER_HEALTH_URL", "DELIVERY_HEALTH_URL", "KEYCLOAK_INTERNAL_URL", "MQTT_HOST", "HEALTH_SERVICES"} {
			environ = append(environ, name+"="+valueOf(&tree, name))
		}
		c, err := FromEnvironment(environ)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		want := append([]string{"http://iot-dispatcher:8080/health", "http://iot-delivery-worker:8080/health", "http://pulse-keycloak:8080/realms/pulse", broker}, runbook...)
		for _, address := range want {
			if !slices.ContainsFunc(c.Services, func(s Service) bool { return slices.Equal(s.Addresses, []string{address}) }) {
				t.Errorf("%s does not name %s", file, address)
			}
		}
		if len(c.Services) != len(want)+3 { // and ingest, evaluator, postgres
			t.Errorf("%s names %d services, want %d", file, len(c.Services), len(want)+3)
		}
	}
}

// valueOf is the value of a variable, as Compose (NAME: value) or Kubernetes (name: NAME,
// value: value) has it: what stands behind its name.
func valueOf(n *yaml.Node, name string) string {
	for i, c := range n.Content {
		if c.Value == name && n.Kind == yaml.MappingNode {
			return n.Content[i+1+i%2].Value // NAME is a key, or the value of the key before another
		}
		if value := valueOf(c, name); value != "" {
			return value
		}
	}
	return ""
}

package config

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

// variables are every setting that there is.
func variables() []string {
	var names []string
	for _, settings := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Database]()} {
		for i := range settings.NumField() {
			if name := settings.Field(i).Tag.Get("env"); name != "" {
				names = append(names, name)
			}
		}
	}
	for _, s := range PlatformServices() {
		if s.Variable != "" {
			names = append(names, s.Variable)
		}
	}
	return names
}

func TestEverySettingIsWhereItsUsersLook(t *testing.T) {
	t.Parallel()
	for file, how := range map[string]struct{ before, after, do string }{
		"README.md":    {"`", "`", "add it to the table under Configuration"},
		"compose.yaml": {"      ", ":", "add it to the environment of ops-worker, so that it can be set there"},
	} {
		content, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variables() {
			if !strings.Contains(string(content), how.before+name+how.after) {
				t.Errorf("%s does not name %s: %s", file, name, how.do)
			}
		}
	}
}

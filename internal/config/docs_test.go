package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestEverySettingIsWhereItsUsersLook(t *testing.T) {
	t.Parallel()
	for file, how := range map[string]struct {
		pattern string // NAME stands for the setting's
		but     string // the one that has no place there
		do      string
	}{
		"README.md":    {pattern: "`NAME`", do: "add it to the table under Configuration"},
		"compose.yaml": {pattern: `(?m)^      NAME:`, do: "add it to the environment of ops-worker, so that it can be set there"},
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

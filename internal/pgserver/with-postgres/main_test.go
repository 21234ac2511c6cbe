package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want int
	}{
		"help":         {[]string{"--help"}, 0},
		"no command":   {[]string{"--env", "X", "--"}, 2},
		"unknown flag": {[]string{"--frob"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, _ := run(test.args); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	file := filepath.Join(t.TempDir(), "url")
	for name, test := range map[string]struct {
		command []string
		want    int
		fails   bool
	}{
		"its status":    {[]string{"sh", "-c", `printf %s "$THE_URL" >"$0"; exit 7`, file}, 7, false},
		"no such thing": {[]string{filepath.Join(t.TempDir(), "nothing")}, statusFailed, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := run(append([]string{"--env", "THE_URL", "--migrate", "--"}, test.command...))
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("status %d, %v, want %d", got, err, test.want)
			}
		})
	}
	address, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(address), "postgres://") {
		t.Errorf("the command saw the URL %q, %v", address, err)
	}
}

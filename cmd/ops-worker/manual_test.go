package main

import (
	"cmp"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write docs/man anew")

// TestManual compares docs/man with the commands: a command, a flag or a text that changes needs -update.
func TestManual(t *testing.T) {
	const folder = "../../docs/man"
	pages := map[string]string{}
	root := newRootCommand(nil)
	root.InitDefaultCompletionCmd()
	addManual(t, pages, root)
	if *update {
		writeManual(t, folder, pages)
	}
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, ok := pages[filepath.Base(file)]; !ok {
			t.Errorf("no command has the page %s", file)
		}
	}
	for name, want := range pages {
		got, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Error(err)
		} else if diff := gocmp.Diff(string(got), want); diff != "" {
			t.Errorf("%s is not what the command says; -update writes it anew:\n%s", name, diff)
		}
	}
}

// mends are what cobra writes about flags and a reader stumbles over.
var mends = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`(?m)^(?:\.PP\n)?(\\fB-.*)\n\t`), ".TP\n$1\n"},         // the text below the flag, not behind it
	{regexp.MustCompile(`(?m)^(\\fB-.*)\[=false\]$`), "$1"},                    // a switch
	{regexp.MustCompile(`(?m)^(\\fB-.*\\fP)=(?:""|\[\])?$`), `$1=\fIvalue\fP`}, // without a default
}

// addManual makes the page of a command and those of the commands below it.
func addManual(t *testing.T, pages map[string]string, cmd *cobra.Command) {
	t.Helper()
	var page strings.Builder
	// A page without a date is the same on every day.
	cmd.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: "ops-worker", Manual: "ops-worker", Date: new(time.Time)}
	if cmd.HasAvailableSubCommands() {
		cmd.Long = cmp.Or(cmd.Long, cmd.Short) + "\n\nThe commands:\n\n"
	}
	for _, below := range cmd.Commands() {
		if below.IsAvailableCommand() {
			cmd.Long += "- **" + below.Name() + "**: " + below.Short + "\n"
			addManual(t, pages, below)
		}
	}
	if err := doc.GenMan(cmd, header, &page); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(page.String(), `"`+header.Date.Format("Jan 2006")+`"`, `""`, 1)
	for _, mend := range mends {
		text = mend.pattern.ReplaceAllString(text, mend.with)
	}
	pages[strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1"] = text
}

func writeManual(t *testing.T, folder string, pages map[string]string) {
	t.Helper()
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, page := range pages {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

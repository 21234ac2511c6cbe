package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const unit = "systemd/ops-worker.service"

// copied is the unit with a program that is there, since the check wants one.
func copied(t *testing.T) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(read(t, unit), "/usr/local/bin/ops-worker run", program, 1)
	file := filepath.Join(t.TempDir(), "ops-worker.service")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	analyzer, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed here")
	}
	output, err := exec.Command(analyzer, args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return string(output)
}

// The check names what it does not know on a line of its own, and still succeeds.
func TestTheUnitIsValid(t *testing.T) {
	t.Parallel()
	file := copied(t)
	for line := range strings.Lines(analyze(t, "verify", "--man=no", file)) {
		if strings.Contains(line, "ops-worker.service") {
			t.Error(line)
		}
	}
}

func TestTheUnitIsHardened(t *testing.T) {
	t.Parallel()
	// The exposure times ten: below 2.0 is what systemd calls OK.
	analyze(t, "security", "--offline=true", "--threshold=15", copied(t))
}

// The settings are those of docs/configuration.md, and the ones that name directories
// are those that systemd makes.
func TestTheUnitSetsWhatIsDocumented(t *testing.T) {
	t.Parallel()
	table := read(t, "../docs/configuration.md")
	text := read(t, unit) + read(t, "systemd/ops-worker.env")
	names := regexp.MustCompile(`(?m)^(?:Environment=|#)?([A-Z_]{5,})=`).FindAllStringSubmatch(text, -1)
	if len(names) < 10 {
		t.Fatalf("%d settings", len(names))
	}
	for _, name := range names {
		if !strings.Contains(table, "`"+name[1]+"`") {
			t.Errorf("docs/configuration.md has no setting %s", name[1])
		}
	}
	for _, line := range []string{"Environment=STATE_DIR=%t/ops-worker", "RuntimeDirectory=ops-worker", "Environment=SPOOL_DIR=%S/ops-worker", "StateDirectory=ops-worker",
		"LoadCredential=database-url:", "Environment=DATABASE_URL_FILE=%d/database-url"} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("there is no %s", line)
		}
	}
}

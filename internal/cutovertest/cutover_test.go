//go:build cutover

package cutovertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ops_worker/internal/config"
	"ops_worker/internal/contracttest"
)

// What the fixtures' .env files set.
const (
	metricsInterval = 2 * time.Second
	healthInterval  = 5 * time.Second
)

const (
	// announcedGap is what the guide says of the charts: less than half a minute.
	announcedGap = 30 * time.Second
	// untouchedGap is of a job whose process the guide leaves alone.
	untouchedGap = 5 * time.Second
	// blockTimeout bounds the commands of one block; some build an image.
	blockTimeout = 4 * time.Minute
	patience     = 90 * time.Second
)

// project is the compose project of the fixtures. There is one, since the names of
// the platform's containers are fixed.
const project = "ops-worker-cutover"

// TestCutOver goes both ways with each release.
func TestCutOver(t *testing.T) {
	if err := exec.CommandContext(t.Context(), "docker", "info").Run(); err != nil {
		t.Skipf("not on this machine: no Docker engine answers: %v", err)
	}
	for _, r := range releases {
		t.Run(r.part, func(t *testing.T) { newWalk(t, r).run(t) })
	}
}

// walk is one reader with the guide.
type walk struct {
	release
	guide guide
	dir   string // where the platform's compose file is
	shell *shell // the reader's
}

func newWalk(t *testing.T, r release) *walk {
	t.Helper()
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	w := &walk{release: r, guide: readGuide(t), dir: filepath.Join(parent, "platform")}
	if err := errors.Join(
		os.CopyFS(w.dir, os.DirFS("testdata/"+r.folder)),
		os.Rename(filepath.Join(w.dir, ".env.example"), filepath.Join(w.dir, ".env")),
		os.Symlink(repository, filepath.Join(parent, "ops_worker")), // "beside it"
	); err != nil {
		t.Fatal(err)
	}
	w.shell = newShell(t, w.dir)
	w.must(t, `git init --quiet . && printf '.env\n' >.gitignore && git add --all && git commit --quiet --message 'The platform'`)
	// The same choice as the guide's, for what is around it.
	w.must(t, `compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi; }`)
	if w.clear(t); t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { w.clear(t) })
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		last := newShell(t, w.dir)
		defer last.close()
		output, _ := last.try(t, fmt.Sprintf(`docker ps --all; for name in $(docker ps --all --quiet --filter name=^/%s$ --filter name=^/iot-ops-worker$ --filter name=^/iot-ui$)
do docker inspect --format '{{.Name}}' "$name"; docker logs --tail 20 "$name"; done`, w.container))
		t.Log(output)
	})
	return w
}

// clear removes what a walk leaves, also one that was killed.
func (w *walk) clear(t *testing.T) {
	t.Helper()
	cleaner := newShell(t, w.dir)
	for _, kind := range []string{"container ls --all", "volume ls", "network ls"} {
		noun, _, _ := strings.Cut(kind, " ")
		remove := map[string]string{"container": "rm --force --volumes", "volume": "rm", "network": "rm"}[noun]
		output, status := cleaner.try(t, fmt.Sprintf(
			`ids=$(docker %s --quiet --filter label=com.docker.compose.project=%s); [ -z "$ids" ] || docker %s %s $ids`, kind, project, noun, remove))
		if status != 0 {
			t.Errorf("remove what is left of %s: %s", noun, output)
		}
	}
	// Compose 1.29 joins the names with an underscore, v2 with a hyphen.
	cleaner.try(t, fmt.Sprintf(`docker image rm %[1]s_ui_iot %[1]s_ops_worker %[1]s-ui_iot %[1]s-ops_worker pulse/ops-worker:cutover-fixture`, project))
	if output, _ := cleaner.try(t, `docker ps --all --format '{{.Names}}' | grep -E '^iot-'`); strings.TrimSpace(output) != "" {
		t.Errorf("there are containers with the platform's names, which the fixtures need: %s", squeeze(output))
	}
	cleaner.close()
}

// run starts the platform, follows the guide there and back, and judges what was
// stored meanwhile.
func (w *walk) run(t *testing.T) {
	w.must(t, "compose -f docker-compose.yml up --detach --build")
	w.eventually(t, "the platform's own process collects", func() bool { return w.samples(t, "") >= 3 && w.oldHealth(t) })
	way := w.guide.way(w.part)

	var changedOver, home window
	checks := w.checks(&changedOver, &home)
	for _, b := range way {
		w.block(t, b, checks)
	}
	w.eventually(t, "the old process goes on", func() bool { return w.samples(t, fmt.Sprintf("AND time > to_timestamp(%d)", home.to.Unix()+1)) >= 3 })
	w.verdict(t, changedOver, home)
}

// A window is from before the commands that change who collects until the new
// process does, by the database's clock.
type window struct{ from, to time.Time }

// check looks at one block's output. A block with from is noted in that window; one
// that is asked again until the check has nothing to say is one that only reads.
type check struct {
	pattern string // what the block contains
	status  int
	again   bool
	says    func(t *testing.T, output string) []string // what is wrong
	prepare func(t *testing.T)
	after   func(t *testing.T)
}

func (w *walk) checks(there, home *window) []check {
	contains := func(want string) func(*testing.T, string) []string {
		return func(_ *testing.T, output string) []string { return missing(output, want) }
	}
	shown := func(section string, i int) string { return w.guide.in("text", section)[i].text }
	return []check{
		{pattern: "platform-release.sh", says: contains(`go on with "` + w.part + `"`), after: w.wrongOverlay},
		{pattern: `echo "$PLATFORM_NETWORK"`, says: func(_ *testing.T, output string) []string {
			if got := strings.TrimSpace(output); got != w.network {
				return []string{fmt.Sprintf("network %q, want %q", got, w.network)}
			}
			return nil
		}},
		{pattern: "build ops_collector", status: 1, says: contains(shown(before, 0))},
		{pattern: "--numstat", says: func(_ *testing.T, output string) []string {
			if want := squeeze(shown("Beside 1.", 0)); !strings.Contains(squeeze(output), want) {
				return []string{fmt.Sprintf("the diff is %q, want %q", output, want)}
			}
			return nil
		}},
		{pattern: `diff -- "$FILE"`, after: func(t *testing.T) {
			services := w.must(t, "platform config --services; git show --format= --numstat")
			if strings.Contains("\n"+services, "\nops_worker\n") || !strings.Contains(services, "ui_iot\n") || !strings.Contains(services, "\n0\t") {
				t.Errorf("after the service was taken out: %s", services)
			}
		}},
		{pattern: "ops up -d", prepare: func(t *testing.T) { there.from = w.now(t) }},
		{pattern: "docker logs", says: func(_ *testing.T, output string) []string {
			if n := strings.Count(output, `"msg":`); n != 1 || !strings.Contains(output, "this replica collects") {
				return []string{fmt.Sprintf("%d lines: %s", n, output)}
			}
			return nil
		}, after: func(t *testing.T) {
			w.eventually(t, "the worker stores", func() bool { return w.samples(t, "AND time > (SELECT acquired_at FROM ops_worker_lease)") > 0 })
			there.to = w.now(t)
		}},
		{pattern: "cat >>.env", says: contains(w.container), after: w.surroundings},
		{pattern: "docker exec", again: true, says: contains(shown(proof, 0)), after: w.proof},
		{pattern: "git revert", prepare: func(t *testing.T) { home.from = w.now(t) }, after: func(t *testing.T) {
			w.eventually(t, "the old process collects", func() bool {
				return w.samples(t, "AND time > (SELECT last_cycle_at FROM ops_worker_lease)") >= 3 && w.oldHealth(t)
			})
			home.to = w.now(t)
			w.steady(t)
		}},
		{pattern: "doctor\n", status: 1, says: contains(shown(afterBack, 0)), after: w.afterBack},
	}
}

// block runs one block and looks at it with the first check that fits.
func (w *walk) block(t *testing.T, b block, checks []check) {
	t.Helper()
	c := check{}
	if i := slices.IndexFunc(checks, func(c check) bool { return strings.Contains(b.text, c.pattern) }); i >= 0 {
		c = checks[i]
	}
	if c.prepare != nil {
		c.prepare(t)
	}
	var wrong []string
	judge := func() bool {
		begin := time.Now()
		output, status := w.shell.try(t, b.text)
		wrong = nil
		if c.says != nil {
			wrong = c.says(t, output)
		}
		if status != c.status {
			wrong = append(wrong, fmt.Sprintf("status %d, want %d", status, c.status))
		}
		if len(wrong) > 0 {
			wrong = append(wrong, "in: "+output)
		}
		t.Logf("%s: status %d, %.1f s\n%s", b.section, status, time.Since(begin).Seconds(), b.text)
		return len(wrong) == 0
	}
	if c.again {
		for deadline := time.Now().Add(patience); !judge() && time.Now().Before(deadline); {
			w.pause(t)
		}
	} else {
		judge()
	}
	if len(wrong) > 0 {
		t.Fatalf("section %q, the commands\n%s%s", b.section, b.text, strings.Join(wrong, "\n"))
	}
	if c.after != nil {
		c.after(t)
	}
}

// wrongOverlay lays the first file over the newest release, as one might who has
// not read the guide.
func (w *walk) wrongOverlay(t *testing.T) {
	if w.part != "Beside" {
		return
	}
	for _, command := range []string{"doctor", "run"} {
		output, status := w.shell.try(t, fmt.Sprintf(
			`(export OPS_WORKER_DIR=$(cd ../ops_worker && pwd -P); platform -f "$OPS_WORKER_DIR/compose.platform.yaml" run --rm --no-deps ops_worker %s)`, command))
		if status != 2 || !strings.Contains(squeeze(output), "the place of the platform's own ops_worker") {
			t.Errorf("in the wrong place %s ended with status %d: %s", command, status, output)
		}
	}
}

// surroundings looks at what the worker was given, and at what it stands beside.
func (w *walk) surroundings(t *testing.T) {
	definition, err := os.ReadFile(root + "/compose.worker.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(w.must(t, `docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' `+w.container)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name != "" && name != "PATH" && !strings.Contains(string(definition), "      "+name+":") {
			t.Errorf("the worker has %s in its environment, which is not its own", name)
		}
	}
	if mounts := squeeze(w.must(t, `docker inspect --format '{{range .Mounts}}{{println .Destination}}{{end}}' `+w.container)); mounts != "/var/lib/ops-worker" {
		t.Errorf("the worker has mounts %s", mounts)
	}
	// Another shell, of another day: .env alone must do.
	if services := w.must(t, "(unset OPS_WORKER_DIR PLATFORM_NETWORK; $COMPOSE config --services)"); !strings.Contains("\n"+services, "\n"+w.service+"\n") {
		t.Errorf("the platform's .env does not add %s: %s", w.service, services)
	}
	version := w.must(t, "docker exec "+w.container+" /ops-worker version")
	if want := strings.TrimSpace(w.must(t, `echo "$OPS_WORKER_COMMIT"`)); want == "" || !strings.Contains(version, want) {
		t.Errorf("the worker says it is %s, built from %s", version, want)
	}
	if w.part == "Beside" {
		if command := w.must(t, `docker inspect --format '{{.State.Running}} {{.Path}}' iot-ops-worker`); !strings.Contains(command, "true /platform-sim") {
			t.Errorf("in iot-ops-worker runs %s", command)
		}
	}
}

// proof runs the guide's two queries, with the fixture's intervals for the defaults.
func (w *walk) proof(t *testing.T) {
	intervals := strings.NewReplacer(
		"interval '5 seconds'", fmt.Sprintf("interval '%d seconds'", int(metricsInterval.Seconds())),
		"interval '60 seconds'", fmt.Sprintf("interval '%d seconds'", int(healthInterval.Seconds())))
	results := w.guide.in("text", proof)[1:]
	for i, b := range w.guide.in("sql", proof) {
		query := intervals.Replace(b.text)
		w.eventually(t, "the guide's query shows what it should", func() bool {
			return len(missing(w.must(t, `docker exec -i "$DATABASE" psql -U iot -d iotcloud <<'END'`+"\n"+query+"END"), results[i].text)) == 0
		})
	}
	w.eventually(t, "some cycles are stored", func() bool { return w.samples(t, "AND time > (SELECT acquired_at FROM ops_worker_lease)") >= 8 })
	if output := w.must(t, "docker exec "+w.container+" /ops-worker doctor"); strings.Contains(output, "  fail  ") {
		t.Errorf("the doctor finds fault: %s", output)
	}
	w.steady(t, w.container)
}

// steady looks whether just the platform's containers stand, and more that are named,
// and whether none has ever restarted: a process without work ends and is restarted.
func (w *walk) steady(t *testing.T, more ...string) {
	t.Helper()
	want := []string{"/iot-migrator exited 0"}
	definition, err := os.ReadFile(filepath.Join(w.dir, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range containerName.FindAllStringSubmatch(string(definition), -1) {
		more = append(more, name[1])
	}
	for _, name := range more {
		if name != "iot-migrator" {
			want = append(want, "/"+name+" running 0")
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	got := strings.Split(strings.TrimSpace(w.must(t, `docker ps --all --quiet --filter label=com.docker.compose.project=`+project+
		` | xargs docker inspect --format '{{.Name}} {{.State.Status}} {{.RestartCount}}'`)), "\n")
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("containers and how often they have restarted: %q, want %q", got, want)
	}
}

var containerName = regexp.MustCompile(`(?m)^    container_name: (\S+)$`)

func (w *walk) afterBack(t *testing.T) {
	holder := w.guide.in("sql", proof)[1].text
	if output := plain(w.must(t, `docker exec -i "$DATABASE" psql -U iot -d iotcloud <<'END'`+"\n"+holder+"END")); !strings.Contains(output, "| f |") {
		t.Errorf("the lease is held: %s", output)
	}
	if output := w.must(t, "docker ps --all --no-trunc --format '{{.Command}}'"); strings.Contains(output, "/ops-worker") {
		t.Errorf("a container of the worker is left: %s", output)
	}
}

// verdict judges every sample and every beat of the whole walk.
func (w *walk) verdict(t *testing.T, there, home window) {
	end := w.now(t)
	series := w.points(t, "SELECT service || ' ' || metric_name, extract(epoch FROM time), tags ? 'writer' FROM system_metrics "+
		"WHERE metric_name <> '"+config.LatencySample+"' AND service || ' ' || metric_name <> ALL ('{"+strings.Join(contracttest.NotInEveryCycle(), ",")+"}') ORDER BY 1, 2")
	if len(series) < 10 {
		t.Errorf("there are %d series", len(series))
	}
	var widest [2]time.Duration
	for name, points := range series {
		// The old process, the worker, the old process: no point of one is among those of
		// another. Without the worker the newest release writes no samples of the platform.
		writers, closePoints := []bool{points[0].old}, 0
		longest := metricsInterval * 7 / 4
		if service, metric, _ := strings.Cut(name, " "); metric != config.HealthSample && (service == config.DatabaseService || service == config.PlatformSamples) {
			longest = 4 * metricsInterval // counted in the database: less often where that takes long, as on a busy machine
		}
		for i, now := range points[1:] {
			last := points[i]
			gap := now.at.Sub(last.at)
			if now.old != last.old {
				writers = append(writers, now.old)
			} else if gap < metricsInterval*3/4 {
				closePoints++
			}
			switch {
			case within(there, last.at, now.at):
				widest[0] = max(widest[0], gap)
			case within(home, last.at, now.at):
				widest[1] = max(widest[1], gap)
			case gap > longest:
				t.Errorf("%s has lost samples: none for %s until %s", name, gap, now.at)
			}
		}
		if !slices.Equal(writers, []bool{true, false, true}) && !(w.part == "Beside" && strings.HasPrefix(name, "platform ") && slices.Equal(writers, []bool{false, true})) {
			t.Errorf("%s was written by the old process: %v", name, writers)
		}
		// As the doctor judges: fewer are a cycle that was late.
		if closePoints >= 3 {
			t.Errorf("%s has %d points too soon after the one before, of the same kind of writer", name, closePoints)
		}
		for phase, during := range map[string]window{"with the worker": {there.to, home.from}, "at the end": {home.to, end}} {
			if !slices.ContainsFunc(points, func(p point) bool { return p.at.After(during.from) && p.at.Before(during.to) }) {
				t.Errorf("%s has no sample %s", name, phase)
			}
		}
	}
	t.Logf("%s: the charts have a gap of %.1f s there and of %.1f s back, in %d series", w.part, widest[0].Seconds(), widest[1].Seconds(), len(series))
	if max(widest[0], widest[1]) > announcedGap {
		t.Errorf("the gaps are %s and %s, and the guide says %s", widest[0], widest[1], announcedGap)
	}

	beats := w.points(t, "SELECT job, extract(epoch FROM at), true FROM platform_sim_beats "+
		"UNION ALL SELECT DISTINCT job, extract(epoch FROM clock_timestamp()), true FROM platform_sim_beats ORDER BY 1, 2")
	expected := map[string]time.Duration{}
	for _, main := range append([]string{w.main}, w.others...) {
		jobs, _ := w.jobs(t, main)
		for _, job := range jobs {
			expected[job] = announcedGap
			if main != w.main {
				expected[job] = untouchedGap
			}
		}
	}
	var longest time.Duration
	for job, limit := range expected {
		runs := beats[job]
		if len(runs) < 10 || runs[0].at.After(there.from) {
			t.Errorf("job %s has run %d times", job, len(runs))
			continue
		}
		// A job that the guide takes out by mistake may not be missed for long here.
		if !slices.ContainsFunc(runs, func(p point) bool { return p.at.After(there.to) && p.at.Before(home.from) }) {
			t.Errorf("job %s has not run while the worker collected", job)
		}
		for i := 1; i < len(runs); i++ {
			pause := runs[i].at.Sub(runs[i-1].at)
			longest = max(longest, pause)
			if pause > limit {
				t.Errorf("job %s stood still for %s until %s", job, pause, runs[i].at)
			}
		}
	}
	t.Logf("%s: the other %d jobs paused for %.1f s at most", w.part, len(expected), longest.Seconds())
}

// within reports whether a gap between two points lies over a window: it begins
// no earlier than a cycle before and ends no later than a cycle after.
func within(w window, from, to time.Time) bool {
	slack := 2 * metricsInterval
	return from.After(w.from.Add(-slack)) && to.Before(w.to.Add(slack))
}

// query is the output of a query, without frills.
func (w *walk) query(t *testing.T, sql string) string {
	t.Helper()
	return strings.TrimSpace(w.must(t, "docker exec -i iot-postgres psql -U iot -d iotcloud --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1 <<'END'\n"+sql+"\nEND"))
}

func (w *walk) now(t *testing.T) time.Time {
	t.Helper()
	return seconds(t, w.query(t, "SELECT extract(epoch FROM clock_timestamp())"))
}

// samples counts the cycles that stored a sample; 0 while there is no table.
func (w *walk) samples(t *testing.T, condition string) int {
	t.Helper()
	output, status := w.shell.try(t, "docker exec -i iot-postgres psql -U iot -d iotcloud --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1 <<'END'\n"+
		"SELECT count(*) FROM system_metrics WHERE service = 'ingest' AND metric_name = 'healthy' AND value = 1 "+condition+"\nEND")
	n, err := strconv.Atoi(strings.TrimSpace(output))
	if status != 0 || err != nil {
		return 0
	}
	return n
}

// oldHealth reports whether the old monitor has written the newest health rows: each
// has a time of its own.
func (w *walk) oldHealth(t *testing.T) bool {
	t.Helper()
	return w.query(t, "SELECT count(*) >= 3 AND count(DISTINCT checked_at) = count(*) AND max(checked_at) > now() - interval '10 seconds' FROM service_health") == "t"
}

// A point is a row of what the verdict reads; old is one of the old process.
type point struct {
	at  time.Time
	old bool
}

// points are the rows of a query of names, epochs and whose, by name.
func (w *walk) points(t *testing.T, sql string) map[string][]point {
	t.Helper()
	found := map[string][]point{}
	for line := range strings.Lines(w.query(t, sql)) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		if len(fields) != 3 {
			t.Fatalf("no point: %q", line)
		}
		found[fields[0]] = append(found[fields[0]], point{seconds(t, fields[1]), fields[2] == "t"})
	}
	return found
}

var epoch = regexp.MustCompile(`^(\d+)\.(\d{6})$`)

func seconds(t *testing.T, text string) time.Time {
	t.Helper()
	parts := epoch.FindStringSubmatch(text)
	if parts == nil {
		t.Fatalf("no epoch: %q", text)
	}
	whole, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	micro, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(whole, micro*1000).UTC()
}

func (w *walk) eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); w.pause(t) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s\n%s", patience, what, w.must(t, "docker ps --all"))
		}
	}
}

// pause is between two looks at containers: each look costs a process or two.
func (w *walk) pause(t *testing.T) {
	pause := time.NewTimer(500 * time.Millisecond)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-t.Context().Done():
	}
}

func (w *walk) must(t *testing.T, commands string) string {
	t.Helper()
	output, status := w.shell.try(t, commands)
	if status != 0 {
		t.Fatalf("status %d of\n%s\n%s", status, commands, output)
	}
	return output
}

// shell is one bash, so that variables and functions stay, as for a reader.
type shell struct {
	input  io.WriteCloser
	output *bufio.Reader
	end    context.CancelFunc
	wait   func() error
	script string
	closed bool
}

// environment is what a walk takes from the test's, and what it adds. COMPOSE_DOCKER_CLI_BUILD lets
// Compose 1.29 build with the docker command, whose cache has the images.
func environment() []string {
	kept := []string{
		"COMPOSE_PROJECT_NAME=" + project, "COMPOSE_DOCKER_CLI_BUILD=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=operator", "GIT_AUTHOR_EMAIL=operator@example.org", "GIT_COMMITTER_NAME=operator", "GIT_COMMITTER_EMAIL=operator@example.org",
	}
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if slices.Contains([]string{"PATH", "HOME", "TMPDIR", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_BUILDKIT", "OPS_WORKER_IMAGE", "PLATFORM_SIM_IMAGE"}, name) {
			kept = append(kept, pair)
		}
	}
	return kept
}

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	command := exec.CommandContext(ctx, "bash", "--noprofile", "--norc")
	command.Dir, command.Env = dir, environment()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout, command.Stderr = write, write
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	s := &shell{input: input, output: bufio.NewReader(output), end: end, script: filepath.Join(t.TempDir(), "block"),
		wait: func() error { defer output.Close(); return command.Wait() }}
	t.Cleanup(s.close)
	return s
}

func (s *shell) close() {
	if s.closed {
		return
	}
	s.closed = true
	s.end()
	_ = s.wait() // killed
}

const marker = "=== end of the block, status "

// try runs commands as they would be typed, one after the other whatever becomes of
// them, and returns what they say and the status of the last that failed.
func (s *shell) try(t *testing.T, commands string) (output string, status int) {
	t.Helper()
	if err := os.WriteFile(s.script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(blockTimeout, s.end)
	defer timeout.Stop()
	// What a command reads from its input must not be the commands that follow.
	if _, err := fmt.Fprintf(s.input, "failed=0; trap 'failed=$?' ERR; . %q </dev/null; trap - ERR; echo; echo \"%s$failed\"\n", s.script, marker); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for {
		line, err := s.output.ReadString('\n')
		if err != nil {
			t.Fatalf("the shell ended in\n%s\n%s", commands, text.String())
		}
		if found, ok := strings.CutPrefix(strings.TrimSpace(line), marker); ok {
			status, err := strconv.Atoi(found)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSuffix(text.String(), "\n"), status
		}
		text.WriteString(line)
	}
}

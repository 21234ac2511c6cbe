package cutovertest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ops_worker/internal/platformsim"
)

const root = "../.."

// block is a fenced block of the guide.
type block struct {
	section, language, text string
}

// guide is docs/cut-over.md in pieces.
type guide []block

func readGuide(t *testing.T) guide {
	t.Helper()
	document, err := os.ReadFile(root + "/docs/cut-over.md")
	if err != nil {
		t.Fatal(err)
	}
	var g guide
	section, fence := "", -1
	lines := strings.SplitAfter(string(document), "\n")
	for i, line := range lines {
		switch language, found := strings.CutPrefix(strings.TrimSpace(line), "```"); {
		case found && fence < 0:
			fence = i + 1
			g = append(g, block{section: section, language: language})
		case found:
			g[len(g)-1].text = strings.Join(lines[fence:i], "")
			fence = -1
		case fence < 0 && strings.HasPrefix(line, "##"):
			section = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	return g
}

// in are the blocks of a language in the sections whose names begin so.
func (g guide) in(language, prefix string) []block {
	var found []block
	for _, b := range g {
		if b.language == language && strings.HasPrefix(b.section, prefix) {
			found = append(found, b)
		}
	}
	return found
}

const (
	proof     = "The proof"
	before    = "Ask the doctor"
	afterBack = "After going back"
)

// back is the section of a part that goes back.
func back(part string) string { return part + " 4." }

// way is what a reader of a part runs, in their order: what stands before all
// parts, the part itself, the proof, the way back, and what stands behind all.
func (g guide) way(part string) []block {
	var there, homeward []block
	for _, b := range g.in("sh", part) {
		if strings.HasPrefix(b.section, back(part)) {
			homeward = append(homeward, b)
		} else {
			there = append(there, b)
		}
	}
	var preface []block
	for _, b := range g.in("sh", "") {
		if b.section == "" {
			preface = append(preface, b)
		}
	}
	return slices.Concat(preface, g.in("sh", before), there, g.in("sh", proof), homeward, g.in("sh", afterBack))
}

// releases are the fixtures, a folder of testdata each.
var releases = []release{
	{
		folder: "release-api", part: "API",
		main: "services/ui_iot/main.py", mainJobs: 2,
		service: "ops_worker", container: "iot-ops-worker", network: "default",
	},
	{
		folder: "release-two", part: "Replace",
		main:    "services/ops_worker/main.py",
		others:  []string{"services/ui_iot/main.py"},
		service: "ops_worker", container: "iot-ops-worker", network: "iot-network",
	},
	{
		folder: "release-worker", part: "Beside",
		main: "services/ops_worker/main.py", mainJobs: 9,
		others:  []string{"services/ui_iot/main.py"},
		service: "ops_collector", container: "iot-ops-collector", network: "iot-network",
	},
}

// release is a fixture, and what the guide makes of it.
type release struct {
	folder string
	// part is the guide's.
	part string
	// main starts the two tasks, among mainJobs others.
	main     string
	mainJobs int
	// others are what the processes run that the guide does not touch.
	others []string
	// service is the worker's, in container.
	service, container string
	network            string
}

// jobs are what a fixture's main.py starts, without the two tasks.
func (r release) jobs(t *testing.T, main string) (others []string, two int) {
	t.Helper()
	source, err := os.ReadFile("testdata/" + r.folder + "/" + main)
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range platformsim.Jobs(string(source)) {
		if job == platformsim.HealthMonitor || job == platformsim.MetricsCollector {
			two++
		} else {
			others = append(others, job)
		}
	}
	return others, two
}

func TestEveryCommandOfTheGuideIsOnSomebodysWay(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	run := map[block]bool{}
	for _, r := range releases {
		way := g.way(r.part)
		if len(way) < 8 {
			t.Errorf("part %s has %d blocks of commands", r.part, len(way))
		}
		for _, b := range way {
			run[b] = true
		}
	}
	for _, b := range g {
		if b.language == "sh" && !run[b] {
			t.Errorf("the commands in section %q are on no way:\n%s", b.section, b.text)
		}
		if !slices.Contains([]string{"sh", "sql", "text"}, b.language) {
			t.Errorf("section %q has a block of %q", b.section, b.language)
		}
	}
}

func TestFixturesHaveTheirJobs(t *testing.T) {
	t.Parallel()
	for _, r := range releases {
		if others, two := r.jobs(t, r.main); len(others) != r.mainJobs || two != 2 {
			t.Errorf("%s: %d of the two tasks, and %d others: %q", r.folder, two, len(others), others)
		}
		for _, main := range r.others {
			if others, two := r.jobs(t, main); len(others) == 0 || two != 0 {
				t.Errorf("%s, %s: %d of the two tasks, and %q", r.folder, main, two, others)
			}
		}
	}
}

func TestLinksOfTheGuideLeadSomewhere(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile(root + "/docs/cut-over.md")
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^##+ (.*)$`).FindAllStringSubmatch(string(document), -1) {
		anchor := regexp.MustCompile(`[^\w\s-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	links := regexp.MustCompile(`\]\(#([^)]*)\)`).FindAllStringSubmatch(string(document), -1)
	if len(links) < 5 {
		t.Errorf("%d links", len(links))
	}
	for _, link := range links {
		if !anchors[link[1]] {
			t.Errorf("#%s leads nowhere", link[1])
		}
	}
}

var (
	spaces   = regexp.MustCompile(`\s+`)
	rules    = regexp.MustCompile(`-{2,}`)
	holder   = regexp.MustCompile(`[0-9a-f]{12}/\d+/[0-9a-f]{8}`)
	instant  = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+\+00)?`)
	duration = regexp.MustCompile(`\b(\d+(\.\d+)?(ms|s|m|h))+\b|\b\d\d:\d\d:\d\d\b`)
	number   = regexp.MustCompile(`\b\d+\b`)
)

// plain is an output as one line, with what differs from run to run left out.
func plain(output string) string {
	output = rules.ReplaceAllString(output, "-")
	output = holder.ReplaceAllString(output, "HOLDER")
	output = instant.ReplaceAllString(output, "TIME")
	output = duration.ReplaceAllString(output, "SOME")
	return squeeze(number.ReplaceAllString(output, "N"))
}

func squeeze(text string) string { return strings.TrimSpace(spaces.ReplaceAllString(text, " ")) }

// missing are the lines of what the guide shows that an output does not have.
func missing(output, shown string) []string {
	var lines []string
	for line := range strings.Lines(shown) {
		if !strings.Contains(plain(output), plain(line)) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func TestMissing(t *testing.T) {
	t.Parallel()
	const shown = "lease     ok   4f1c2d9a7b30/1/2a7c9c59 since 2026-11-23 15:31:52 (epoch 1, 2m8s ago)\nother writer  ok  none in the last 10m\n"
	for output, want := range map[string]int{
		"lease ok 0123456789ab/7/01234567 since 2027-01-01 00:00:00 (epoch 12, 31.5s\n    ago)\nother writer  ok  none in the last 4m": 0,
		"lease ok 0123456789ab/7/01234567 since 2027-01-01 00:00:00 (epoch 12, 31.5s ago)\nother writer  warn  none in the last 4m":    1,
		"": 2,
	} {
		if got := missing(output, shown); len(got) != want {
			t.Errorf("of %q are missing %q, want %d", output, got, want)
		}
	}
}

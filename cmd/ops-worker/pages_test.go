package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/pflag"

	"ops_worker/internal/pgtest"
)

const repository = "../.."

// page is a Markdown file of the repository.
type page struct {
	path   string
	prose  string // without the fenced blocks
	blocks []block
}

// block is a fenced block; line is where it begins.
type block struct {
	language, text string
	line           int
}

func readPages(t *testing.T) (pages []page) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "dist") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		pages = append(pages, newPage(path, string(text)))
		return err
	})
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	return pages
}

func newPage(path, text string) page {
	p := page{path: path}
	inside := false
	for i, line := range strings.Split(text, "\n") {
		language, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && !inside:
			p.blocks = append(p.blocks, block{language: language, line: i + 2})
		case inside && !fence:
			p.blocks[len(p.blocks)-1].text += line + "\n"
		case !fence:
			p.prose += line + "\n"
		}
		inside = inside != fence
	}
	return p
}

// anchors are the names that GitHub gives to the headings.
func (p page) anchors() (names []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(p.prose, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestPagesHaveNoDeadLinks(t *testing.T) {
	t.Parallel()
	pages := readPages(t)
	linked := map[string]bool{filepath.Join(repository, "README.md"): true}
	for _, p := range pages {
		for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(p.prose, -1) {
			address, _, _ := strings.Cut(link[1], " ") // of a title
			if strings.Contains(address, ":") {
				continue
			}
			path, anchor, _ := strings.Cut(address, "#")
			target := p.path
			if path != "" {
				target = filepath.Join(filepath.Dir(p.path), path)
			}
			linked[target] = true
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: there is no %s", p.path, link[1])
			}
			i := slices.IndexFunc(pages, func(p page) bool { return p.path == target })
			if anchor != "" && (i < 0 || !slices.Contains(pages[i].anchors(), anchor)) {
				t.Errorf("%s: %s has no heading for it", p.path, link[1])
			}
		}
	}
	for _, p := range pages {
		if !linked[p.path] {
			t.Errorf("no page links to %s", p.path)
		}
	}
}

// What the README shows of status are lines that a test of status has printed.
func TestPagesShowTheStatusAsItIs(t *testing.T) {
	t.Parallel()
	printed, err := os.ReadFile(filepath.Join(repository, "internal/status/testdata/well-80.golden"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := newPage("", string(readme)).blocks
	i := slices.IndexFunc(shown, func(b block) bool { return b.language == "text" })
	if i < 0 {
		t.Fatal("the README shows nothing")
	}
	for line := range strings.Lines(shown[i].text) {
		if !strings.Contains(string(printed), line) {
			t.Errorf("status prints no line %q", line)
		}
	}
}

// Every command in the pages that is the worker's own, a target of make or a script is
// one that is there, with flags and arguments that it takes; and every shell block
// is valid shell.
func TestPagesNameCommandsThatRun(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	logged := logLines(t)
	checked := 0
	for _, p := range readPages(t) {
		var code []string
		for _, b := range p.blocks {
			if !slices.Contains([]string{"sh", "sql", "text", "json", "yaml", "mermaid"}, b.language) {
				t.Errorf("%s:%d: nothing looks into a block of %q", p.path, b.line, b.language)
			}
			if b.language == "sh" {
				code = append(code, b.text)
				shell := exec.CommandContext(t.Context(), "bash", "-n")
				shell.Stdin = strings.NewReader(b.text)
				if output, err := shell.CombinedOutput(); err != nil {
					t.Errorf("%s:%d: %s", p.path, b.line, output)
				}
			}
		}
		for _, span := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(p.prose, -1) {
			code = append(code, strings.ReplaceAll(span[1], `\|`, "|"))
		}
		for _, text := range code {
			for _, words := range commands(text) {
				checked++
				arguments, isWorker := workerArguments(words)
				switch _, isLogged := logged[text]; {
				case isLogged:
				case isWorker:
					if err := acceptedByTheWorker(arguments); err != nil {
						t.Errorf("%s: %s: %v", p.path, strings.Join(words, " "), err)
					}
				case words[0] == "make":
					for _, word := range words[1:] {
						target := regexp.MustCompile(`(?m)^[a-z -]*\b` + regexp.QuoteMeta(word) + `\b[a-z -]*:`)
						if !strings.Contains(word, "=") && !target.Match(makefile) {
							t.Errorf("%s: make has no target %s", p.path, word)
						}
					}
				case strings.HasPrefix(words[0], "scripts/"), words[0] == ".ci/run":
					if _, err := os.Stat(filepath.Join(repository, words[0])); err != nil {
						t.Errorf("%s: there is no %s", p.path, words[0])
					}
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("%d commands are found in the pages", checked)
	}
}

// commands are the words of each simple command, without what is set before it and
// what is redirected.
func commands(text string) (list [][]string) {
	text = strings.ReplaceAll(text, "\\\n", " ")
	text = regexp.MustCompile(`(?m)(^| )#.*$`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`"[^"]*"|'[^']*'`).ReplaceAllStringFunc(text, func(quoted string) string {
		return strings.NewReplacer(" ", "_", "|", "_", ";", "_", "\n", "_", `"`, "", "'", "").Replace(quoted)
	})
	for _, part := range regexp.MustCompile(`\n|\|\|?|&&|;|\$\(|[(){}]`).Split(text, -1) {
		part = regexp.MustCompile(`\d?[<>]+&?\s*\S+`).ReplaceAllString(part, "")
		words := strings.Fields(part)
		for len(words) > 0 && regexp.MustCompile(`^([A-Za-z_]+=.*|exec|until|while|do|if|then|!)$`).MatchString(words[0]) {
			words = words[1:]
		}
		if len(words) > 0 {
			list = append(list, words)
		}
	}
	return list
}

// workerArguments are the arguments, if a command runs the worker: on this machine, or as
// /ops-worker in a container.
func workerArguments(words []string) (arguments []string, ok bool) {
	i := slices.Index(words, "/ops-worker")
	if slices.Contains([]string{"ops-worker", "bin/ops-worker", "as_worker"}, words[0]) {
		i = 0
	}
	return words[i+1:], i >= 0 && !slices.Contains(words, "$@") // of a function that passes them on
}

// acceptedByTheWorker parses arguments as the command line does. A word in capitals
// stands for a value.
func acceptedByTheWorker(arguments []string) error {
	command, rest, err := newRootCommand(nil).Find(arguments)
	if err != nil {
		return err
	}
	if err := command.ParseFlags(rest); err != nil && err != pflag.ErrHelp {
		return err
	}
	return command.ValidateArgs(command.Flags().Args())
}

// Every SQL block in the pages runs on a database of the worker and the newest platform.
// Those of the cut-over run there too, in its own order.
func TestPagesHaveStatementsThatRun(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	database.NewerTables(t)
	database.Exec(t, "INSERT INTO tenants (tenant_id, name) VALUES ('__system__', 'System Alerts') ON CONFLICT DO NOTHING")
	conn, err := pgx.Connect(t.Context(), database.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, p := range readPages(t) {
		for _, b := range p.blocks {
			excerpt := strings.Contains(b.text, "…")
			if b.language != "sql" || excerpt || strings.Contains(p.path, "deploy") { // whose own tests run it
				continue
			}
			for statement := range strings.SplitSeq(regexp.MustCompile(`--.*`).ReplaceAllString(b.text, ""), ";\n") {
				if _, err := conn.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Errorf("%s:%d: %s: %v", p.path, b.line, strings.TrimSpace(statement), err)
				}
			}
		}
	}
}

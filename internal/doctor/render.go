package doctor

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"golang.org/x/term"

	"ops_worker/internal/humanize"
)

// The table fits into the terminal's width, within bounds, unless a single word is
// longer; elsewhere into defaultWidth.
const (
	leastWidth   = 60
	defaultWidth = 120
)

func widthOf(out io.Writer) int {
	if file, ok := out.(*os.File); ok {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
			return max(width, leastWidth)
		}
	}
	return defaultWidth
}

// mostFound is how many lines of a check are shown.
const mostFound = 40

// advicePrefix marks what to do among what was found.
const advicePrefix = "-> "

// Print writes the report as a table for people, and a line that sums it up.
func (r Report) Print(out io.Writer) error { return r.print(out, widthOf(out)) }

func (r Report) print(out io.Writer, width int) error {
	const padding = 2
	head := []string{"CHECK", "RESULT", "FOUND, AND WHAT TO DO"}
	columns := []int{len(head[0]), len(head[1])}
	for _, c := range r.Checks {
		columns[0], columns[1] = max(columns[0], len(c.Name)), max(columns[1], len(c.Result))
	}
	room := width - columns[0] - columns[1] - 2*padding

	w := tabwriter.NewWriter(out, 0, 0, padding, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	count := map[Result]int{}
	for _, c := range r.Checks {
		count[c.Result]++
	}
	for _, c := range r.rows() {
		var lines []string
		for _, found := range humanize.Few(c.Found, mostFound) {
			lines = append(lines, wrap(found, room, "", "  ")...)
		}
		if len(c.Found) > mostFound {
			lines = append(lines, "--json shows all")
		}
		for _, advice := range humanize.Few(c.Advice, mostFound) {
			lines = append(lines, wrap(advice, room, advicePrefix, "   ")...)
		}
		if len(lines) == 0 {
			lines = []string{"-"}
		}
		for i, line := range lines {
			if i == 0 {
				fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, c.Result, line)
			} else {
				fmt.Fprintf(w, "\t\t%s\n", line)
			}
		}
	}
	fmt.Fprintf(w, "\n%d checks: %d ok, %d warn, %d fail, %d skipped\n",
		len(r.Checks), count[OK], count[Warn], count[Fail], count[Skipped])
	return w.Flush()
}

// rows are the checks, but one for all that were skipped for the same reason.
func (r Report) rows() []Check {
	reason := func(c Check) string { return strings.Join(c.Found, " ") }
	alike := map[string][]string{}
	for _, c := range r.Checks {
		if c.Result == Skipped {
			alike[reason(c)] = append(alike[reason(c)], c.Name)
		}
	}
	var rows []Check
	for _, c := range r.Checks {
		names := alike[reason(c)]
		switch {
		case c.Result != Skipped || len(names) == 1:
			rows = append(rows, c)
		case c.Name == names[0]:
			rows = append(rows, Check{Name: fmt.Sprintf("%d checks", len(names)), Result: Skipped,
				Found: append(slices.Clone(c.Found), strings.Join(names, ", "))})
		}
	}
	return rows
}

// wrap breaks a text at its spaces into lines of at most room characters, the
// first line behind first and the others behind rest.
func wrap(text string, room int, first, rest string) []string {
	var lines []string
	line := first
	empty := true
	for _, word := range strings.Fields(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > room {
			lines = append(lines, line)
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	return append(lines, line)
}

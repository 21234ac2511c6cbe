package doctor

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// width is what the table fits into, unless a single word is longer.
const width = 120

// advicePrefix marks what to do among what was found.
const advicePrefix = "-> "

// Print writes the report as a table for people, and a line that sums it up.
func (r Report) Print(out io.Writer) error {
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
		var lines []string
		for _, found := range c.Found {
			lines = append(lines, wrap(found, room, "", "  ")...)
		}
		for _, advice := range c.Advice {
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

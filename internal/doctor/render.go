package doctor

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Print writes the report as a table for people, and a line that sums it up. What to do
// begins with an arrow.
func (r Report) Print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHECK\tRESULT\tFOUND, AND WHAT TO DO")
	count := map[Result]int{}
	for _, c := range r.Checks {
		count[c.Result]++
		lines := slices.Clone(c.Found)
		for _, advice := range c.Advice {
			lines = append(lines, "-> "+advice)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, c.Result, cmp.Or(strings.Join(lines, "\n\t\t"), "-"))
	}
	fmt.Fprintf(w, "\n%d checks: %d ok, %d warn, %d fail, %d skipped\n",
		len(r.Checks), count[OK], count[Warn], count[Fail], count[Skipped])
	return w.Flush()
}

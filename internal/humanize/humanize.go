// Package humanize writes numbers and texts for people.
package humanize

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Age is a duration in its two largest units.
func Age(d time.Duration) string {
	d = d.Abs()
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.3gs", d.Seconds())
	case d < time.Hour:
		return two(d, time.Minute, "m", time.Second, "s")
	case d < day:
		return two(d, time.Hour, "h", time.Minute, "m")
	}
	return two(d, day, "d", time.Hour, "h")
}

func two(d, large time.Duration, largeUnit string, small time.Duration, smallUnit string) string {
	text := strconv.Itoa(int(d/large)) + largeUnit
	if rest := d % large / small; rest > 0 {
		text += strconv.Itoa(int(rest)) + smallUnit
	}
	return text
}

// OneLine folds a text of several lines.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Few are the first names of a list, and how many more there are.
func Few(names []string, most int) []string {
	if len(names) <= most {
		return names
	}
	return append(slices.Clone(names[:most]), fmt.Sprintf("and %d more", len(names)-most))
}

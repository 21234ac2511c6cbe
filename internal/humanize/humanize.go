// Package humanize writes numbers and texts for people.
package humanize

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
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

// OneLine makes one printable line of a text from anywhere: what a service or a server
// writes must neither draw on a terminal nor break a line of the log.
func OneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.Join(strings.Fields(text), " ")
}

// Few are the first names of a list, and how many more there are.
func Few(names []string, most int) []string {
	if len(names) <= most {
		return names
	}
	return append(slices.Clone(names[:most]), fmt.Sprintf("and %d more", len(names)-most))
}

// Near are the names that a word is a misspelling of, the nearest first: two letters at
// most are wrong, missing or too many, or two have changed places.
func Near(word string, names []string) (near []string) {
	for _, name := range names {
		if d := distance(word, name); d > 0 && d <= 2 && 2*d <= len(name) {
			near = append(near, name)
		}
	}
	slices.SortStableFunc(near, func(a, b string) int { return distance(word, a) - distance(word, b) })
	return near
}

// distance is how many letters are to be changed, added or taken away to make one text
// of another (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

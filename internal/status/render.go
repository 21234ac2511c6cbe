package status

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"

	"ops_worker/internal/config"
	"ops_worker/internal/probe"
)

// style is how a piece of text stands out; on a terminal without colour, and in a
// pipe, none does.
type style string

// The styles are SGR parameters of the sixteen colours, which every terminal's
// theme has made legible.
const (
	plain   style = ""
	bold    style = "1"
	faint   style = "2"
	red     style = "31"
	green   style = "32"
	yellow  style = "33"
	magenta style = "35"
	cyan    style = "36"
	alarm   style = "1;31"
)

// piece is text of one style on one line.
type piece struct {
	text  string
	style style
}

type line []piece

// Print writes the report for people, in lines of at most width columns.
func (r Report) Print(out io.Writer, width int, colour bool) error {
	_, err := io.WriteString(out, text(r.lines(width), width, colour, "\n"))
	return err
}

// text cuts each line to the width and ends it.
func text(lines []line, width int, colour bool, end string) string {
	var b strings.Builder
	for _, l := range lines {
		l.write(&b, width, colour)
		b.WriteString(end)
	}
	return b.String()
}

func (l line) write(b *strings.Builder, width int, colour bool) {
	if l.width() > width {
		l = l.cut(width)
	}
	if !colour {
		var flat strings.Builder
		for _, p := range l {
			flat.WriteString(p.text)
		}
		b.WriteString(strings.TrimRight(flat.String(), " "))
		return
	}
	for _, p := range l {
		if p.style == plain || p.text == "" {
			b.WriteString(p.text)
		} else {
			fmt.Fprintf(b, "\x1b[%sm%s\x1b[0m", p.style, p.text)
		}
	}
}

func (l line) width() (n int) {
	for _, p := range l {
		n += columns(p.text)
	}
	return n
}

// cut is the line with an ellipsis in its last column.
func (l line) cut(width int) line {
	var short line
	for _, p := range l {
		if n := columns(p.text); n < width {
			short = append(short, p)
			width -= n
			continue
		}
		return append(short, piece{cut(p.text, width, true), p.style})
	}
	return short
}

// cut shortens a text to so many columns, with an ellipsis where it is longer or,
// if always is set, in any case.
func cut(text string, width int, always bool) string {
	if columns(text) <= width && !always {
		return text
	}
	if width < 1 {
		return ""
	}
	n := 0
	for i, r := range text {
		if n += runeColumns(r); n > width-1 {
			return text[:i] + "…"
		}
	}
	return text + "…"
}

// columns is how much room a text takes on a terminal.
func columns(text string) (n int) {
	for _, r := range text {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// cell is one cell of a table.
type cell = piece

// column says how a table's column is laid out.
type column struct {
	head  string
	right bool // numbers stand at the right
	most  int  // longer texts are cut; 0 leaves them to the line
}

const gap = "  "

// table lays rows out in columns as wide as they need.
func table(head []column, rows [][]cell) []line {
	widths := make([]int, len(head))
	for i, c := range head {
		widths[i] = columns(c.head)
		for _, row := range rows {
			if c.most > 0 {
				row[i].text = cut(row[i].text, c.most, false)
			}
			widths[i] = max(widths[i], columns(row[i].text))
		}
	}
	lay := func(cells []cell) line {
		var l line
		for i, c := range cells {
			pad := strings.Repeat(" ", widths[i]-columns(c.text))
			switch {
			case head[i].right:
				l = append(l, piece{text: pad}, c)
			case i == len(cells)-1:
				l = append(l, c)
			default:
				l = append(l, c, piece{text: pad})
			}
			if i < len(cells)-1 {
				l = append(l, piece{text: gap})
			}
		}
		return l
	}
	heads := make([]cell, len(head))
	for i, c := range head {
		heads[i] = cell{c.head, bold}
	}
	lines := []line{lay(heads)}
	for _, row := range rows {
		lines = append(lines, lay(row))
	}
	return lines
}

// lines is the report, in lines that are not cut yet.
func (r Report) lines(width int) []line {
	role := "primary"
	if r.Database.Standby {
		role = "standby"
	}
	lines := []line{{{"ops-worker status", bold}, {text: fmt.Sprintf("  %s  %s, PostgreSQL %s, %s",
		r.At.UTC().Format("2006-01-02 15:04:05 UTC"), r.Database.Name, r.Database.Version, role)}}}
	for _, n := range r.Notices {
		lines = append(lines, line{{"! " + n.Text, alarm}})
	}
	for _, section := range [][]line{r.leaderLines(), r.serviceLines(width), r.alertLines(width), r.seriesLines(width)} {
		lines = append(lines, line{})
		lines = append(lines, section...)
	}
	return lines
}

// unread is what stands in the place of a section that could not be read.
func (r Report) unread(title string, section Section) []line {
	return []line{{{title, bold}, {text: gap}, {"not read: " + r.Unreadable[section], yellow}}}
}

func (r Report) leaderLines() []line {
	if r.Unreadable[LeaderSection] != "" {
		return r.unread("LEADER", LeaderSection)
	}
	label := func(title string) piece { return piece{fmt.Sprintf("%-6s", title), bold} }
	leader, stored := line{label("LEADER"), {text: gap}}, line{label("STORED"), {text: gap}}
	l := r.Leader
	switch {
	case l == nil:
		leader = append(leader, piece{"none", red})
	case l.Held:
		leader = append(leader, piece{l.Holder, green}, piece{text: fmt.Sprintf("  for %s, epoch %d", r.age(l.Since), l.Epoch)})
	case l.Holder == "":
		leader = append(leader, piece{"none", red})
	default:
		leader = append(leader, piece{"none", red}, piece{text: fmt.Sprintf("  it was %s until %s ago, epoch %d", l.Holder, r.age(l.ExpiresAt), l.Epoch)})
	}
	if l == nil || l.StoredUpTo == nil {
		stored = append(stored, piece{text: "nothing yet"})
	} else {
		at := l.StoredUpTo.UTC()
		layout := "15:04:05"
		if r.At.Sub(at) > 12*time.Hour {
			layout = "2006-01-02 15:04:05"
		}
		stored = append(stored, piece{text: fmt.Sprintf("up to %s, %s ago", at.Format(layout), r.age(at))})
		if n := l.CyclesBehind; n > 0 {
			stored = append(stored, piece{fmt.Sprintf(", %d %s of %gs behind", n, plural(n, "cycle"), l.IntervalSeconds), yellow})
		} else {
			stored = append(stored, piece{text: fmt.Sprintf(", every %gs, none behind", l.IntervalSeconds)})
		}
	}
	newest := line{label("NEWEST"), {text: gap}, {text: "sample " + r.since(r.NewestSample) + ", health check " + r.since(r.NewestCheck)}}
	return []line{leader, stored, newest}
}

func plural(n int64, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// age is how long before the reading something was.
func (r Report) age(at time.Time) string { return ago(max(0, r.At.Sub(at))) }

func (r Report) since(at *time.Time) string {
	if at == nil {
		return "none"
	}
	return r.age(*at) + " ago"
}

var stateStyles = map[probe.Status]style{probe.Healthy: green, probe.Degraded: yellow, probe.Down: red, probe.Unknown: magenta}

func (r Report) serviceLines(width int) []line {
	if r.Unreadable[ServicesSection] != "" {
		return r.unread("SERVICES", ServicesSection)
	}
	if len(r.Services) == 0 {
		return []line{{{"SERVICES", bold}, {text: gap + "none has been checked"}}}
	}
	services, hidden := shownServices(r.Services)
	rows := make([][]cell, len(services))
	for i, s := range services {
		since, latency := "-", "-"
		if s.Since != nil {
			since = r.age(*s.Since)
		}
		if s.LatencyMS != nil {
			latency = fmt.Sprintf("%d ms", *s.LatencyMS)
		}
		reason := s.Reason
		if reason == "" {
			reason = "-"
		}
		rows[i] = []cell{{text: s.Service}, {string(s.State), stateStyles[s.State]}, {text: since}, {text: latency}, {text: r.age(s.CheckedAt)}, {text: reason}}
	}
	lines := table([]column{{head: "SERVICE", most: max(16, width/4)}, {head: "STATE"}, {head: "FOR", right: true}, {head: "LATENCY", right: true}, {head: "CHECKED", right: true}, {head: "REASON"}}, rows)
	lines = append(lines, hidden...)
	if reason := r.Unreadable[SinceSection]; reason != "" {
		lines = append(lines, line{{"FOR is not known: " + reason, faint}})
	}
	return lines
}

// mostLines is how many services, and series of services that the platform does not
// have, are shown.
const mostLines = 50

// shownServices are all where they are few, else those of the platform and the
// first that are not healthy, with a line that counts the others.
func shownServices(all []Service) (shown []Service, hidden []line) {
	if len(all) <= mostLines {
		return all, nil
	}
	well, unwell, room := 0, 0, mostLines
	for _, s := range all {
		switch {
		case isPlatform(s.Service):
			shown = append(shown, s)
		case s.State == probe.Healthy:
			well++
		case room > 0:
			room--
			shown = append(shown, s)
		default:
			unwell++
		}
	}
	if unwell > 0 {
		hidden = append(hidden, line{{fmt.Sprintf("and %d more that are not healthy: --json has all", unwell), red}})
	}
	return shown, append(hidden, line{{fmt.Sprintf("and %d more that are healthy", well), green}})
}

// shownSeries are those of the platform, and the first of others.
func shownSeries(all []Series) (shown []Series, hidden []line) {
	room := mostLines
	for _, s := range all {
		if isPlatform(s.Service) || room > 0 {
			shown = append(shown, s)
		}
		if !isPlatform(s.Service) {
			room--
		}
	}
	if more := len(all) - len(shown); more > 0 {
		hidden = []line{{{fmt.Sprintf("and %d more of extra services: --json has all", more), faint}}}
	}
	return shown, hidden
}

// isPlatform reports whether a service, or what is counted under its name, is the
// platform's own.
func isPlatform(name string) bool {
	return name == config.PlatformSamples || slices.ContainsFunc(config.PlatformServices(), func(s config.Service) bool { return s.Name == name })
}

func (r Report) alertLines(width int) []line {
	if r.Unreadable[AlertsSection] != "" {
		return r.unread("ALERTS", AlertsSection)
	}
	if len(r.Alerts) == 0 {
		return []line{{{"ALERTS", bold}, {text: gap + "none is open"}}}
	}
	rows := make([][]cell, len(r.Alerts))
	for i, a := range r.Alerts {
		colour := red
		if a.Status != "OPEN" {
			colour = yellow
		}
		rows[i] = []cell{{text: a.Service}, {strings.ToLower(clean(a.Status)), colour}, {text: r.age(a.OpenedAt)}, {text: a.Summary}}
	}
	lines := table([]column{{head: "ALERT", most: max(16, width/4)}, {head: "STATUS"}, {head: "AGE", right: true}, {head: "SUMMARY"}}, rows)
	if r.AlertsOpen > len(r.Alerts) {
		lines = append(lines, line{{fmt.Sprintf("and %d more", r.AlertsOpen-len(r.Alerts)), red}})
	}
	return lines
}

func (r Report) seriesLines(width int) []line {
	if r.Unreadable[SeriesSection] != "" {
		return r.unread("METRICS", SeriesSection)
	}
	if len(r.Series) == 0 {
		return []line{{{"METRICS", bold}, {text: gap + "there are no samples"}}}
	}
	series, hidden := shownSeries(r.Series)
	rows := make([][]cell, len(series))
	for i, s := range series {
		now, change, colour := "-", "-", plain
		if s.Value != nil {
			now = s.format(*s.Value)
		}
		switch {
		case s.Old:
			change, colour = r.age(s.At)+" old", yellow
		case s.Change != nil:
			change = s.format(*s.Change)
			switch {
			case strings.Trim(change, "-+0./sB ") == "": // nothing, once rounded
				change, colour = "=", faint
			case *s.Change > 0:
				change = "+" + change
			}
		}
		rows[i] = []cell{{text: s.Service}, {text: s.Metric}, {text: now}, {change, colour}}
	}
	head := []column{{head: "SERVICE", most: max(12, width/6)}, {head: "METRIC", most: max(18, width/5)}, {head: "NOW", right: true}, {head: "CHANGE", right: true}}
	lines := table(head, rows)
	room := sparkWidth(width - lines[0].width() - len(gap))
	lines[0] = append(lines[0], piece{text: gap}, piece{"LAST HOUR", bold})
	for i, s := range series {
		lines[i+1] = append(lines[i+1], piece{text: gap}, piece{sparkline(merge(s.LastHour, room)), cyan})
	}
	return append(lines, hidden...)
}

// format writes a value of the series in the unit that its name says.
func (s Series) format(v float64) string {
	switch {
	case s.Kind == Counter:
		return short(v) + "/s"
	case strings.HasSuffix(s.Metric, "_bytes"):
		return bytes(v)
	}
	return short(v)
}

// short writes a number in few characters: whole up to a million, then by its
// magnitude.
func short(v float64) string {
	switch size := math.Abs(v); {
	case size >= 1e15:
		return strconv.FormatFloat(v, 'g', 3, 64)
	case size >= 1e12:
		return fmt.Sprintf("%.1fT", v/1e12)
	case size >= 1e9:
		return fmt.Sprintf("%.1fG", v/1e9)
	case size >= 1e6:
		return fmt.Sprintf("%.1fM", v/1e6)
	case size >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case size >= 0.05:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func bytes(v float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if math.Abs(v) >= unit.size {
			return fmt.Sprintf("%.1f %s", v/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%.0f B", v)
}

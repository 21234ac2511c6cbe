package status

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"ops_worker/internal/probe"
)

// style is an SGR parameter of the sixteen colours, which every terminal's theme has
// made legible.
type style string

const (
	bold   style = "1"
	faint  style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
	alarm  style = "1;31"
)

// cell is a text of one style: a cell of a table, or a part of a line.
type cell struct {
	text  string
	style style
}

type line []cell

const gap = "  "

// Print writes the report for people, in lines of at most width columns.
func (r Report) Print(out io.Writer, width int, colour bool) error {
	for _, l := range r.lines(width) {
		if _, err := io.WriteString(out, l.render(width, colour)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// render cuts the line to the width, and drops the blanks at its end.
func (l line) render(width int, colour bool) string {
	var b strings.Builder
	for _, c := range l {
		text := cut(c.text, width)
		width -= columns(text)
		if colour && c.style != "" && text != "" {
			text = "\x1b[" + string(c.style) + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
	return strings.TrimRight(b.String(), " ")
}

// columns is how wide a text is: every character counts as one column.
func columns(text string) int { return utf8.RuneCountInString(text) }

// cut shortens a text to so many columns, the last of them an ellipsis.
func cut(text string, width int) string {
	switch {
	case columns(text) <= width:
		return text
	case width < 1:
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// column is the head of a table's column; numbers stand at the right.
type column struct {
	head  string
	right bool
}

// table lays rows out in columns as wide as they need. All but the last are at most a
// quarter of the width. Without rows there are no lines.
func table(head []column, rows [][]cell, width int) []line {
	if len(rows) == 0 {
		return nil
	}
	heads := make([]cell, len(head))
	for i, c := range head {
		heads[i] = cell{c.head, bold}
	}
	rows = append([][]cell{heads}, rows...)
	widths := make([]int, len(head))
	for _, row := range rows {
		for i := range row {
			if i < len(row)-1 {
				row[i].text = cut(row[i].text, max(12, width/4))
			}
			widths[i] = max(widths[i], columns(row[i].text))
		}
	}
	lines := make([]line, len(rows))
	for n, row := range rows {
		for i, c := range row {
			pad := strings.Repeat(" ", widths[i]-columns(c.text))
			switch {
			case head[i].right:
				lines[n] = append(lines[n], cell{text: pad}, c, cell{text: gap})
			case i < len(row)-1:
				lines[n] = append(lines[n], c, cell{text: pad + gap})
			default:
				lines[n] = append(lines[n], c)
			}
		}
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
	lines = append(lines, r.maintenanceLines()...)
	for _, section := range []struct {
		name         Section
		title, empty string
		lines        []line
	}{
		{LeaderSection, "LEADER", "", r.leaderLines()},
		{ServicesSection, "SERVICES", "none has been checked", r.serviceLines(width)},
		{AlertsSection, "ALERTS", "none is open", r.alertLines(width)},
		{AvailabilitySection, "AVAILABILITY", "no service has been watched", r.availabilityLines(width)},
		{SeriesSection, "METRICS", "there are no samples", r.seriesLines(width)},
	} {
		lines = append(lines, line{})
		if reason := r.Unreadable[section.name]; reason != "" {
			lines = append(lines, line{{section.title + gap, bold}, {"not read: " + reason, yellow}})
		} else if len(section.lines) == 0 {
			lines = append(lines, line{{section.title + gap, bold}, {text: section.empty}})
		}
		lines = append(lines, section.lines...)
	}
	return lines
}

func (r Report) maintenanceLines() (lines []line) {
	if reason := r.Unreadable[MaintenanceSection]; reason != "" {
		return []line{{{"MAINTENANCE" + gap, bold}, {"not read: " + reason, yellow}}}
	}
	for _, w := range r.Maintenance {
		when := "without an end"
		switch {
		case w.Weekly != nil:
			when = fmt.Sprintf("from %02d:00 to %02d:00 UTC", w.Weekly.StartHour, w.Weekly.EndHour)
		case !w.Ends.IsZero():
			when = "until " + w.Ends.UTC().Format("2006-01-02 15:04 UTC")
		}
		lines = append(lines, line{{fmt.Sprintf("maintenance %s: %s (%s)", when, w.Name, w.Whose()), yellow}})
	}
	return lines
}

func (r Report) leaderLines() []line {
	if r.Unreadable[LeaderSection] != "" {
		return nil
	}
	leader, stored := line{{"LEADER" + gap, bold}}, line{{"STORED" + gap, bold}}
	l := r.Leader
	switch {
	case l == nil || l.Holder == "":
		leader = append(leader, cell{"none", red})
	case l.Held:
		leader = append(leader, cell{l.Holder, green}, cell{text: fmt.Sprintf("  for %s, epoch %d", r.age(l.Since), l.Epoch)})
	default:
		leader = append(leader, cell{"none", red}, cell{text: fmt.Sprintf("  it was %s until %s ago, epoch %d", l.Holder, r.age(l.ExpiresAt), l.Epoch)})
	}
	switch {
	case l == nil || l.StoredUpTo == nil:
		stored = append(stored, cell{text: "nothing yet"})
	case l.CyclesBehind > 0:
		stored = append(stored, cell{text: "up to " + r.since(l.StoredUpTo)}, cell{fmt.Sprintf(", cycles of %gs behind: %d", l.IntervalSeconds, l.CyclesBehind), yellow})
	default:
		stored = append(stored, cell{text: fmt.Sprintf("up to %s, every %gs, none behind", r.since(l.StoredUpTo), l.IntervalSeconds)})
	}
	newest := "sample " + r.newest(SeriesSection, r.NewestSample) + ", health check " + r.newest(ServicesSection, r.NewestCheck)
	return []line{leader, stored, {{"NEWEST" + gap, bold}, {text: newest}}}
}

// newest is when the newest row of a section was written.
func (r Report) newest(section Section, at *time.Time) string {
	if r.Unreadable[section] != "" {
		return "not known"
	}
	return r.since(at)
}

func (r Report) since(at *time.Time) string {
	if at == nil {
		return "none"
	}
	return r.age(*at) + " ago"
}

var stateStyles = map[probe.Status]style{probe.Healthy: green, probe.Degraded: yellow, probe.Down: red, probe.Unknown: yellow}

func (r Report) serviceLines(width int) []line {
	rows := make([][]cell, len(r.Services))
	var notices []line
	for i, s := range r.Services {
		since, latency := "-", "-"
		if s.Since != nil {
			since = r.age(*s.Since)
		}
		if s.LatencyMS != nil {
			latency = fmt.Sprintf("%d ms", *s.LatencyMS)
		}
		if s.CertificateEnds != nil {
			if notice := probe.CertificateNotice(*s.CertificateEnds, r.At); notice != "" {
				notices = append(notices, line{{s.Service + ": " + notice, yellow}})
			}
		}
		rows[i] = []cell{{text: s.Service}, {string(s.State), stateStyles[s.State]}, {text: since}, {text: latency}, {text: r.age(s.CheckedAt)}, {text: cmp.Or(s.Reason, "-")}}
	}
	lines := append(table([]column{{head: "SERVICE"}, {head: "STATE"}, {"FOR", true}, {"LATENCY", true}, {"CHECKED", true}, {head: "REASON"}}, rows, width), notices...)
	if reason := r.Unreadable[SinceSection]; reason != "" && len(lines) > 0 {
		lines = append(lines, line{{"FOR is not known: " + reason, faint}})
	}
	return lines
}

func (r Report) alertLines(width int) []line {
	rows := make([][]cell, len(r.Alerts))
	for i, a := range r.Alerts {
		colour := red
		if a.Status != "OPEN" {
			colour = yellow
		}
		rows[i] = []cell{{text: a.Service}, {strings.ToLower(clean(a.Status)), colour}, {text: r.age(a.OpenedAt)}, {text: a.Summary}}
	}
	lines := table([]column{{head: "ALERT"}, {head: "STATUS"}, {"AGE", true}, {head: "SUMMARY"}}, rows, width)
	if more := r.AlertsOpen - len(r.Alerts); more > 0 {
		lines = append(lines, line{{fmt.Sprintf("and %d more", more), red}})
	}
	return lines
}

func (r Report) availabilityLines(width int) []line {
	rows, unknown := make([][]cell, len(r.Availability)), false
	for i, a := range r.Availability {
		rows[i] = []cell{{text: a.Service}}
		for _, share := range []*float64{a.Percent24h, a.Percent7d, a.Percent30d} {
			unknown = unknown || share == nil
			rows[i] = append(rows[i], cell{text: percent(share)})
		}
		rows[i] = append(rows[i], r.incident(a.LastIncident))
	}
	lines := table([]column{{head: "AVAILABILITY"}, {"24H", true}, {"7D", true}, {"30D", true}, {head: "LAST INCIDENT"}}, rows, width)
	if unknown {
		lines = append(lines, line{{fmt.Sprintf("? is not known: less than %g %% of that time was watched", 100*watchedShare), faint}})
	}
	return lines
}

// percent rounds to three digits, but what is not whole never to 100.
func percent(share *float64) string {
	switch {
	case share == nil:
		return "?"
	case *share < 100:
		return fmt.Sprintf("%.3f%%", min(*share, 99.999))
	}
	return "100%"
}

// incident is when it ended, how long it was, and why.
func (r Report) incident(i *Incident) cell {
	if i == nil {
		return cell{text: "none"}
	}
	c := cell{"for " + r.age(i.StartedAt) + ", not over", red}
	if i.EndedAt != nil {
		c = cell{text: fmt.Sprintf("ended %s ago, lasted %s", r.age(*i.EndedAt), ago(time.Duration(i.DurationSeconds*float64(time.Second))))}
	}
	if i.Reason != "" {
		c.text += ": " + i.Reason
	}
	return c
}

func (r Report) seriesLines(width int) []line {
	rows := make([][]cell, len(r.Series))
	for i, s := range r.Series {
		now := "-"
		if s.Value != nil {
			now = s.format(*s.Value)
		}
		rows[i] = []cell{{text: s.Service}, {text: s.Metric}, {text: now}, r.change(s), {sparkline(s.LastHour), cyan}}
	}
	return table([]column{{head: "SERVICE"}, {head: "METRIC"}, {"NOW", true}, {"CHANGE", true}, {head: "LAST HOUR"}}, rows, width)
}

// change is how much a series has changed in the hour, or how old it is.
func (r Report) change(s Series) cell {
	if s.Old {
		return cell{r.age(s.At) + " old", yellow}
	}
	if s.Change == nil {
		return cell{text: "-"}
	}
	if math.Abs(*s.Change) < 0.005 { // nothing, once rounded
		return cell{"=", faint}
	}
	text := s.format(*s.Change)
	if *s.Change > 0 {
		text = "+" + text
	}
	return cell{text: text}
}

// format writes a value of the series in the unit that its name says.
func (s Series) format(v float64) string {
	switch {
	case s.Kind == "counter":
		return short(v) + "/s"
	case strings.HasSuffix(s.Metric, "_bytes"):
		return short(v) + "B"
	}
	return short(v)
}

// short writes a number in few characters: whole up to a million, then by its
// magnitude.
func short(v float64) string {
	switch size := math.Abs(v); {
	case size >= 1e15:
		return fmt.Sprintf("%.3g", v)
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

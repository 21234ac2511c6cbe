package humanize

import (
	"strings"
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0:                                     "0s",
		1500 * time.Millisecond:               "1.5s",
		-90 * time.Second:                     "1m30s",
		time.Hour:                             "1h",
		time.Hour + 90*time.Second:            "1h1m",
		7 * 24 * time.Hour:                    "7d",
		50*time.Hour + 59*time.Minute:         "2d2h",
		59*time.Second + 999*time.Millisecond: "60s",
	} {
		if got := Age(d); got != want {
			t.Errorf("Age(%d) = %s, want %s", d, got, want)
		}
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"as it is":                  "as it is",
		" two\n\tlines\r\n":         "two lines",
		"a\x00b \x1b[31mred\x1b[0m": "a b [31mred [0m",
		"bad \xff\xfe, \u009b1m":    "bad ?, 1m",
	} {
		if got := OneLine(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestFew(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	for most, want := range map[int]string{3: "a b c", 2: "a b and 1 more", 0: "and 3 more"} {
		if got := strings.Join(Few(names, most), " "); got != want {
			t.Errorf("%d: %s", most, got)
		}
	}
}

func TestNear(t *testing.T) {
	names := []string{"json", "watch", "dry-run", "any-database"}
	for word, want := range map[string]string{
		"jsno": "json", "jsn": "json", "wacth": "watch", "dryrun": "dry-run", "any-databse": "any-database", "json": "", "x": "", "": "", "verbose": "",
	} {
		if got := strings.Join(Near(word, names), " "); got != want {
			t.Errorf("near %q: %q, want %q", word, got, want)
		}
	}
}

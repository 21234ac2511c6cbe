package config

import "testing"

func TestPlainTerminal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		environ []string
		want    bool
	}{
		{[]string{"TERM=xterm-256color"}, false},
		{[]string{"TERM=xterm", "NO_COLOR="}, false}, // empty counts as unset
		{[]string{"TERM=xterm", "NO_COLOR=1"}, true},
		{[]string{"TERM=dumb"}, true},
		{nil, true},
	} {
		if got := PlainTerminal(test.environ); got != test.want {
			t.Errorf("PlainTerminal(%v) = %t, want %t", test.environ, got, test.want)
		}
	}
}

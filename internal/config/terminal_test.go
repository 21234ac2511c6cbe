package config

import "testing"

func TestTerminalOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		environ []string
		want    Terminal
	}{
		{[]string{"TERM=xterm-256color"}, Terminal{}},
		{[]string{"TERM=xterm", "NO_COLOR="}, Terminal{}}, // empty counts as unset
		{[]string{"TERM=xterm", "NO_COLOR=1"}, Terminal{Plain: true}},
		{[]string{"TERM=dumb"}, Terminal{Plain: true, Dumb: true}},
		{nil, Terminal{Plain: true, Dumb: true}},
	} {
		if got := TerminalOf(test.environ); got != test.want {
			t.Errorf("TerminalOf(%v) = %+v, want %+v", test.environ, got, test.want)
		}
	}
}

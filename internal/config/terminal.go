package config

import "strings"

// Terminal is what the environment says of the terminal.
type Terminal struct {
	// Plain asks for no colour: NO_COLOR is set, or it is dumb.
	Plain bool
	// Dumb cannot move its cursor.
	Dumb bool
}

// TerminalOf reads NO_COLOR and TERM, which are the user's and no settings of the
// worker.
func TerminalOf(environ []string) Terminal {
	set := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		set[name] = value
	}
	dumb := set["TERM"] == "" || set["TERM"] == "dumb"
	return Terminal{Plain: dumb || set["NO_COLOR"] != "", Dumb: dumb}
}

// Package migrations carries the goose migrations inside the binary. They are
// the one place where the worker's own tables stand, and each may be run again:
// that is how a table that was dropped is made anew.
package migrations

import (
	"embed"
	"io/fs"
	"regexp"
	"slices"
	"sync"
)

// FS holds every migration, applied in the order of their numbers.
//
//go:embed *.sql
var FS embed.FS

var creates = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\s*CREATE (TABLE|VIEW|INDEX)(?: IF NOT EXISTS)? (?:public\.)?(\w+)`)
})

// The kinds of what the migrations make.
const (
	Table = "TABLE"
	View  = "VIEW"
	Index = "INDEX"
)

// Relations are the names of what the migrations make, of these kinds.
func Relations(kinds ...string) ([]string, error) {
	files, err := fs.Glob(FS, "*.sql")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		content, err := FS.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, match := range creates().FindAllSubmatch(content, -1) {
			if slices.Contains(kinds, string(match[1])) {
				names = append(names, string(match[2]))
			}
		}
	}
	return names, nil
}

// Package migrations carries the goose migrations inside the binary.
package migrations

import "embed"

// FS holds every migration, applied in the order of their numbers.
//
//go:embed *.sql
var FS embed.FS

// Package sql carries the SQL that is run as it stands in its file. What is in
// queries/ is compiled by sqlc instead, and what is in migrations/ is run by
// goose.
package sql

import "embed"

// Grants are the rights that a login role needs, as a template.
//
//go:embed grants.sql
var Grants string

// Platform is what the worker knows of the platform's schema:
// platform/tables/NAME.sql makes a table in its first form,
// platform/stand_ins/NAME.sql a view in the place of one that newer releases
// have dropped, and platform/routes.sql is what the system routes read.
// platform/newer/NAME.sql is a table that only newer releases have: sqlc and the
// tests read it, and the worker never makes it.
//
//go:embed platform
var Platform embed.FS

// Timescale is what runs only where TimescaleDB is installed; @extschema@
// stands for its schema, as in PostgreSQL's own extension scripts.
// timescale/hypertables/NAME.sql converts a table of the platform.
//
//go:embed timescale
var Timescale embed.FS

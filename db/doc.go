// Package db is the data layer: what sqlc makes of sql/queries and migrations,
// and beside it, by hand, opening the pool, transactions and migrations.
package db

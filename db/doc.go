// Package db is the data layer: what sqlc makes of sql/queries and migrations,
// and beside it, by hand, the pool, transactions and the classes of errors.
package db

// Package db is the data layer. sqlc generates it from sql/queries and migrations; the
// pool, transactions and classes of errors are written by hand.
package db

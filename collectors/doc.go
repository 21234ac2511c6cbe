// Package collectors holds the worker's two jobs: the health monitor and the
// metrics collector, and the loop that drives them.
//
// A cycle first gathers, holding no database connection while it waits for a
// service, and then writes what it has in one short transaction that holds the
// lease. Nothing here reads the environment, sleeps, or holds SQL.
package collectors

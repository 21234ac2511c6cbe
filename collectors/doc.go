// Package collectors holds the worker's two jobs: the health monitor and the
// metrics collector, and the loop that drives them.
//
// A cycle first gathers, without a database connection while it waits for services. It
// then writes in short transactions that hold the lease. Nothing here reads the
// environment, sleeps, or holds SQL.
package collectors

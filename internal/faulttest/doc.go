// Package faulttest breaks a running worker, and what stands around it, in every
// way that docs/reliability.md makes a promise for, and measures what is left:
// real worker processes, a real PostgreSQL and PgBouncer, and in between a proxy
// that cuts, delays, swallows and freezes connections. It holds tests alone.
package faulttest

// Package cutovertest goes through docs/cut-over.md, command by command, on real
// containers: against a compose file for each kind of release that the platform
// has. `make test-cutover` runs it.
package cutovertest

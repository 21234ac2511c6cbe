package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/internal/humanize"
)

// RootCause is the innermost error, of the last address. pgx joins one error for each
// address, with TLS and without, and puts the target before them.
func RootCause(err error) error {
	for {
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
			return pgErr
		}
		next := errors.Unwrap(err)
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
			next = joined.Unwrap()[len(joined.Unwrap())-1]
		}
		if next == nil {
			return err
		}
		err = next
	}
}

// UnreachableError says in one line why there is no connection, and to which host and
// database as which user. It holds no secret.
type UnreachableError struct {
	Cause, Target string
	err           error
}

func (e *UnreachableError) Error() string { return e.Cause + ": " + e.Target }
func (e *UnreachableError) Unwrap() error { return e.err }

// Unreachable makes an UnreachableError of a failure to connect; it returns any other
// error as it is.
func Unreachable(pool *pgxpool.Pool, err error) error {
	if _, explained := errors.AsType[*UnreachableError](err); explained || !isConnectError(err) {
		return err
	}
	root := RootCause(err)
	cause := humanize.OneLine(root.Error())
	if netErr, ok := errors.AsType[net.Error](root); ok && netErr.Timeout() {
		cause = "no answer in time"
	}
	return &UnreachableError{cause, Target(pool.Config().ConnConfig.Config), err}
}

// Target is the hosts, database and user of a configuration, without the password.
func Target(c pgconn.Config) string {
	hosts := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, fallback := range c.Fallbacks {
		host := net.JoinHostPort(fallback.Host, strconv.Itoa(int(fallback.Port)))
		if host != hosts[len(hosts)-1] { // else it is the same one without TLS
			hosts = append(hosts, host)
		}
	}
	return fmt.Sprintf("%s/%s as %s", strings.Join(hosts, ","), c.Database, c.User)
}

// code is the SQLSTATE of a server's error, empty for any other.
func code(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// IsServerError reports whether the server refused a statement on a connection that
// still works.
func IsServerError(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && !endsConnection(pgErr) && !isConnectError(err)
}

// endsConnection reports whether the server or a pooler closed the connection with this
// error.
func endsConnection(err *pgconn.PgError) bool {
	severity := cmp.Or(err.SeverityUnlocalized, err.Severity)
	return severity == "FATAL" || severity == "PANIC" || strings.HasPrefix(err.Code, "57P") || strings.HasPrefix(err.Code, "08")
}

// isConnectError reports whether no connection could be made.
func isConnectError(err error) bool {
	_, failed := errors.AsType[*pgconn.ConnectError](err)
	_, notRenewed := errors.AsType[*renewError](err)
	return failed || notRenewed
}

// IsTimeout reports whether a statement took too long, for the server or for the worker.
func IsTimeout(err error) bool {
	return code(err) == "57014" || code(err) == "" && (errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err))
}

// IsLocked reports whether a statement waited too long for a lock.
func IsLocked(err error) bool { return code(err) == "55P03" }

// IsMissingTable reports whether a statement named a table that does not exist.
func IsMissingTable(err error) bool { return code(err) == "42P01" }

// IsForbidden reports whether a right was missing, or row-level security would have
// hidden rows.
func IsForbidden(err error) bool { return code(err) == "42501" }

// IsConflict reports a serialization failure or a deadlock: a retry may succeed.
func IsConflict(err error) bool { return code(err) == "40001" || code(err) == "40P01" }

// IsNoRows reports whether a :one query found nothing.
func IsNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// IsRowSecurity reports whether row-level security would have hidden rows. It tells by
// the server's routine, since messages are in the language of the server.
func IsRowSecurity(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Routine == "check_enable_rls"
}

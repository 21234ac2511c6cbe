// Package pgserver runs a PostgreSQL that is thrown away afterwards, for the tests and for `make run`.
//
// The server comes from the first of these that works:
//
//  1. PGTEST_DATABASE_URL, the URL of a superuser on a server that somebody runs already;
//  2. a container, where a Docker engine answers: PGTEST_IMAGE, or else PostgreSQL 15;
//  3. the machine's own PostgreSQL programs, in a temporary directory.
//
// PGTEST_BACKEND=docker or PGTEST_BACKEND=binaries leaves only that choice. Whatever way the process ends, a server
// that this package started ends with it: see Guard.
package pgserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// EnvURL names a server that exists; envBackend forces one way of starting another, envImage another version.
	EnvURL     = "PGTEST_DATABASE_URL"
	envBackend = "PGTEST_BACKEND"
	envImage   = "PGTEST_IMAGE"

	// The backends.
	External = "external"
	Docker   = "docker"
	Binaries = "binaries"

	// Superuser is the one of a server that this package starts.
	Superuser = "postgres"

	// ReadyTimeout is how long a server may take from its start to its first answer; a loaded machine needs seconds.
	ReadyTimeout = 60 * time.Second
	// StepTimeout bounds one administrative statement, such as creating or dropping a database.
	StepTimeout = 30 * time.Second
)

// Settings trade all durability for speed: nothing here outlives the process.
// 300 connections leave room for many pools in parallel tests.
func Settings() []string {
	return []string{
		"-c", "fsync=off",
		"-c", "synchronous_commit=off",
		"-c", "full_page_writes=off",
		"-c", "max_connections=300",
	}
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	backend string
	base    *url.URL // a superuser's URL; only the database in it changes
	stop    func() error
	cluster *cluster // of StartBinaries

	closeOnce sync.Once
	closeErr  error
}

// New is a server that runs already; stop ends it. The URL is a superuser's.
func New(backend string, base *url.URL, stop func() error) *Server {
	return &Server{backend: backend, base: base, stop: stop}
}

// Image is the container image that a server is run from.
func Image() string {
	if name := os.Getenv(envImage); name != "" {
		return name
	}
	return "postgres:15-bookworm"
}

// DataDirectory is PGDATA in a container, in memory: making a database means making some 300 files, which takes a tenth of
// the time there. Not the image's own, which has moved with PostgreSQL 18.
const DataDirectory = "/var/lib/pgtest"

// Start finds or starts a server, in the order that the package comment gives; docker runs one in a container. When
// nothing works, the error says what was tried and what to install. The context bounds the start alone; the server runs
// until Close.
func Start(ctx context.Context, docker func(context.Context) (*Server, error)) (*Server, error) {
	if raw := os.Getenv(EnvURL); raw != "" {
		server, err := startExternal(ctx, raw)
		if err != nil {
			return nil, fmt.Errorf("use %s: %w", EnvURL, err)
		}
		return server, nil
	}

	backends := []struct {
		name  string
		start func(context.Context) (*Server, error)
	}{
		{Docker, docker},
		{Binaries, startBinaries},
	}
	forced := os.Getenv(envBackend)
	if forced != "" && forced != Docker && forced != Binaries {
		return nil, fmt.Errorf("%s=%q: want %s or %s", envBackend, forced, Docker, Binaries)
	}

	var failures []error
	for _, backend := range backends {
		if forced != "" && forced != backend.name {
			continue
		}
		server, err := backend.start(ctx)
		if err == nil {
			if len(failures) > 0 {
				fmt.Fprintf(os.Stderr, "pgserver: using %s, since %s\n", server.backend, OneLine(errors.Join(failures...)))
			}
			return server, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", context.Cause(ctx))
		}
		failures = append(failures, fmt.Errorf("%s: %w", backend.name, err))
	}
	return nil, nothingWorked(failures)
}

// nothingWorked says what was tried, and what to do about it.
func nothingWorked(failures []error) error {
	return fmt.Errorf("start PostgreSQL: nothing to run it with; install Docker, or PostgreSQL's programs "+
		"(Debian: apt-get install postgresql), or set %s:\n%w", EnvURL, errors.Join(failures...))
}

// Backend tells where the server came from: "external", "docker" or "binaries".
func (s *Server) Backend() string { return s.backend }

// URL is the superuser's URL of a database on this server.
func (s *Server) URL(database string) string {
	address := *s.base
	address.Path = "/" + database
	return address.String()
}

// Close ends the server and removes everything that it left on disk. An external server goes
// on. It may be called several times.
func (s *Server) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.stop() })
	return s.closeErr
}

// Create makes an empty database of this name.
func (s *Server) Create(ctx context.Context, name string) error {
	return s.Clone(ctx, name, "template0")
}

// Clone makes a database of this name as a copy of another, to which nobody is connected.
func (s *Server) Clone(ctx context.Context, name, template string) error {
	statement := fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", Quote(name), Quote(template))
	if err := s.admin(ctx, statement); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

// Drop removes a database, and the connections to it.
func (s *Server) Drop(ctx context.Context, name string) error {
	if err := s.admin(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", Quote(name))); err != nil {
		return fmt.Errorf("drop database: %w", err)
	}
	return nil
}

// Maintenance is the database that administrative statements run in.
func (s *Server) Maintenance() string {
	if name := strings.TrimPrefix(s.base.Path, "/"); name != "" {
		return name
	}
	return "postgres"
}

// admin runs statements one after the other, each in a transaction of its own, as CREATE DATABASE demands.
func (s *Server) admin(ctx context.Context, statements ...string) error {
	return Execute(ctx, s.URL(s.Maintenance()), func(ctx context.Context, conn *pgx.Conn) error {
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

// Execute calls work with a connection that is closed afterwards, all within StepTimeout.
func Execute(ctx context.Context, address string, work func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, StepTimeout)
	defer cancel()
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return fmt.Errorf("parse database URL: %w", err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return errors.Join(work(ctx, conn), conn.Close(context.WithoutCancel(ctx)))
}

// startExternal uses a server that somebody else runs, and leaves it running.
func startExternal(ctx context.Context, raw string) (*Server, error) {
	base, err := url.Parse(raw)
	if err != nil {
		// The parse error would repeat the URL, and with it the password.
		return nil, errors.New("not a URL")
	}
	if base.Scheme != "postgres" && base.Scheme != "postgresql" {
		return nil, errors.New("want a URL that starts with postgres:// or postgresql://")
	}
	server := New(External, base, func() error { return nil })
	ctx, cancel := context.WithTimeout(ctx, StepTimeout)
	defer cancel()
	if err := server.admin(ctx, "SELECT"); err != nil {
		return nil, err
	}
	return server, nil
}

// SuperuserURL addresses a server of our own.
func SuperuserURL(host, password string) *url.URL {
	return &url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(Superuser, password),
		Host:     host,
		Path:     "/postgres",
		RawQuery: "sslmode=disable",
	}
}

// AwaitReady returns the first of the addresses whose server answers a query. It gives up when the context ends or
// when exited is closed, which stands for a server that has ended by itself.
func AwaitReady(ctx context.Context, addresses []*url.URL, exited <-chan struct{}) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	pause := time.NewTicker(25 * time.Millisecond)
	defer pause.Stop()

	var last error
	for {
		for _, address := range addresses {
			attempt, cancelAttempt := context.WithTimeout(ctx, 2*time.Second)
			last = Execute(attempt, address.String(), func(ctx context.Context, conn *pgx.Conn) error {
				return conn.Ping(ctx)
			})
			cancelAttempt()
			if last == nil {
				return address, nil
			}
		}
		select {
		case <-exited:
			return nil, fmt.Errorf("the server ended while it started: %w", last)
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the server: %w", errors.Join(context.Cause(ctx), last))
		case <-pause.C:
		}
	}
}

// Quote makes an SQL identifier of a name.
func Quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// Token is a random word for names and passwords, lower case and unique among all tests on a server.
func Token() string { return strings.ToLower(rand.Text())[:16] }

// OneLine folds an error of several lines, so that a reason stays one line of a log.
func OneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.TrimSpace(line) == "" })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// Package pgserver runs a PostgreSQL that is thrown away afterwards, for `make run` and, through package pgtest, for tests:
// the machine's own programs in a temporary directory, or a container by the docker command. Whatever way this process
// ends, the server ends with it: see Guard.
package pgserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// Superuser is the login role of a server.
	Superuser = "postgres"
	// ReadyTimeout is how long a server may take from its start to its first answer; a loaded machine needs seconds.
	ReadyTimeout = 60 * time.Second
	// StepTimeout bounds one administrative statement, such as creating or dropping a database.
	StepTimeout = 30 * time.Second
	// DataDirectory is PGDATA in a container, in memory: making a database means making some 300 files, which takes a tenth
	// of the time there. Not the image's own, which has moved with PostgreSQL 18.
	DataDirectory = "/var/lib/pgtest"
)

// Settings trade all durability for speed: nothing here outlives the process. 300 connections leave room for many pools in
// parallel tests.
func Settings() []string {
	return []string{"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=300"}
}

// Image is the container image that a server is run from.
func Image() string {
	if name := os.Getenv("PGTEST_IMAGE"); name != "" {
		return name
	}
	return "postgres:15-bookworm"
}

// Server is a running PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	base    *url.URL // the superuser's URL; only the database in it changes
	cluster *cluster // of StartBinaries
	stop    func() error
}

// New is a server that runs at this address; stop ends it.
func New(address, password string, stop func() error) *Server {
	return &Server{base: superuserURL(address, password), stop: sync.OnceValue(stop)}
}

// Running is a server that somebody else has started, and ends.
func Running(superuser string) (*Server, error) {
	base, err := url.Parse(superuser)
	if err != nil {
		return nil, errors.New("not a valid postgres:// URL")
	}
	return &Server{base: base, stop: func() error { return nil }}, nil
}

// Start runs the machine's own programs, or else a container. The context bounds the start alone.
func Start(ctx context.Context) (*Server, error) {
	server, err := StartBinaries(ctx)
	if errors.Is(err, ErrNoBinaries) {
		var dockerErr error
		if server, dockerErr = startDocker(ctx); dockerErr == nil {
			return server, nil
		}
		err = fmt.Errorf("install PostgreSQL (Debian: apt-get install postgresql) or Docker: %w", errors.Join(err, dockerErr))
	}
	return server, err
}

// Address is the server's host:port.
func (s *Server) Address() string { return s.base.Host }

// URL is the superuser's URL of a database on this server.
func (s *Server) URL(database string) string {
	address := *s.base
	address.Path = "/" + database
	return address.String()
}

// Close ends the server and removes everything that it left on disk. It may be called several times.
func (s *Server) Close() error { return s.stop() }

// Create makes an empty database of this name.
func (s *Server) Create(ctx context.Context, name string) error {
	return s.Clone(ctx, name, "template0")
}

// Clone makes a database of this name as a copy of another, to which nobody is connected.
func (s *Server) Clone(ctx context.Context, name, template string) error {
	return s.admin(ctx, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", Quote(name), Quote(template)))
}

// Drop removes a database, and the connections to it.
func (s *Server) Drop(ctx context.Context, name string) error {
	return s.admin(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", Quote(name)))
}

func (s *Server) admin(ctx context.Context, statement string) error {
	return Execute(ctx, s.URL("postgres"), func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
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

func superuserURL(address, password string) *url.URL {
	return &url.URL{Scheme: "postgres", User: url.UserPassword(Superuser, password), Host: address, Path: "/postgres", RawQuery: "sslmode=disable"}
}

// AwaitReady waits until the server answers a query. It gives up when the context ends, or exited is closed: then the
// server has ended by itself.
func (s *Server) AwaitReady(ctx context.Context, exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	pause := time.NewTicker(25 * time.Millisecond)
	defer pause.Stop()
	for {
		err := s.ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("the server ended while it started: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("wait for the server: %w", errors.Join(context.Cause(ctx), err))
		case <-pause.C:
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return Execute(ctx, s.base.String(), func(ctx context.Context, conn *pgx.Conn) error { return conn.Ping(ctx) })
}

// Quote makes an SQL identifier of a name.
func Quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// Token is a random word for names and passwords, in lower case.
func Token() string { return strings.ToLower(rand.Text())[:16] }

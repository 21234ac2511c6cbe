// Package pgtest gives tests a PostgreSQL of their own: in a container through testcontainers, or else by the machine's own
// programs.
//
// A test package has one server and every test a database of its own, cloned in some 50 ms from a template that was
// migrated once:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		t.Parallel()
//		database := pgtest.New(t)
//		pool := database.Pool(t)
//		…
//	}
//
// The package imports ops_worker/db for its migrations, so tests inside package db are of package db_test.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/pgserver"
)

// server is a test package's own, with the template of its databases.
type server struct {
	*pgserver.Server
	template template
}

// start runs a server in a container, or else by the machine's own programs. PGTEST_BACKEND=docker and
// PGTEST_BACKEND=binaries leave one of the two. PGTEST_DATABASE_URL, the URL of a superuser, names one that runs already,
// with TimescaleDB for example: of that only the databases are the tests'.
func start(ctx context.Context) (*server, error) {
	if address := os.Getenv("PGTEST_DATABASE_URL"); address != "" {
		running, err := pgserver.Running(address)
		if err != nil {
			return nil, fmt.Errorf("PGTEST_DATABASE_URL: %w", err)
		}
		return &server{Server: running}, nil
	}
	backend := os.Getenv("PGTEST_BACKEND")
	if backend == "binaries" {
		s, err := pgserver.StartBinaries(ctx)
		return &server{Server: s}, err
	}
	s, dockerErr := startContainer(ctx)
	if dockerErr == nil || backend == "docker" {
		return &server{Server: s}, dockerErr
	}
	s, err := pgserver.StartBinaries(ctx)
	if err != nil {
		return nil, fmt.Errorf("tests need Docker, or PostgreSQL's programs (Debian: apt-get install postgresql): %w", errors.Join(dockerErr, err))
	}
	fmt.Fprintln(os.Stderr, "pgtest: using the machine's PostgreSQL, since no container starts:", faultlog.ErrorText(dockerErr))
	return &server{Server: s}, nil
}

// close ends the server, the template first, which a server that runs already would keep.
func (s *server) close() error {
	var err error
	if s.template.name != "" {
		err = s.Drop(context.Background(), s.template.name)
	}
	return errors.Join(err, s.Close())
}

// create makes a database of this name; migrated says whether it is a copy of the migrated template or empty.
func (s *server) create(ctx context.Context, name string, migrated bool) error {
	if !migrated {
		return s.Create(ctx, name)
	}
	source, err := s.template.prepare(s.Server)
	if err != nil {
		return err
	}
	return s.Clone(ctx, name, source)
}

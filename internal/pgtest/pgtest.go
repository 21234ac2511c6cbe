// Package pgtest gives tests a PostgreSQL of their own, through testcontainers where a Docker engine answers; where else
// it comes from, package pgserver says.
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

	"ops_worker/internal/pgserver"
)

// server is a test package's own, with the template of its databases.
type server struct {
	*pgserver.Server
	template template
}

// start finds or starts a server.
func start(ctx context.Context) (*server, error) {
	s, err := pgserver.Start(ctx, startDocker)
	if err != nil {
		return nil, err
	}
	return &server{Server: s}, nil
}

// create makes a database of this name; migrated says whether it is a copy of the migrated template or empty.
func (s *server) create(ctx context.Context, name string, migrated bool) error {
	if !migrated {
		return s.Create(ctx, name)
	}
	source, err := s.template.prepare(ctx, s.Server)
	if err != nil {
		return err
	}
	return s.Clone(ctx, name, source)
}

// close ends the server; on an external one it removes the template and nothing else.
func (s *server) close() error {
	var err error
	if s.Backend() == pgserver.External {
		err = s.template.drop(s.Server)
	}
	return errors.Join(err, s.Close())
}

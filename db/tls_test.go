package db_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ops_worker/db"
	"ops_worker/internal/certtest"
	"ops_worker/internal/config"
	"ops_worker/internal/pgserver"
	"ops_worker/internal/pgtest"
)

// tlsServer is a PostgreSQL that speaks TLS, and takes client certificates of an
// authority for the role of their name.
type tlsServer struct {
	t      *testing.T
	server *pgserver.Server
	data   string
}

const tlsDatabase = "tls"

func startTLSServer(t *testing.T, clients *certtest.Authority) *tlsServer {
	t.Helper()
	if testing.Short() {
		t.Skip("integration test: needs PostgreSQL, which -short leaves out")
	}
	server, err := pgserver.StartBinaries(t.Context())
	if errors.Is(err, pgserver.ErrNoBinaries) {
		t.Skipf("TLS needs a PostgreSQL whose files a test can write: %v (Debian: apt-get install postgresql)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Create(t.Context(), tlsDatabase); err != nil {
		t.Fatal(err)
	}
	s := &tlsServer{t: t, server: server}
	s.query("SHOW data_directory", &s.data)
	s.install(clients.File, "clients.pem")
	s.write("pg_hba.conf", []byte("hostssl all certified all cert\nhost all all all scram-sha-256\n"))
	s.exec("CREATE ROLE certified LOGIN", "ALTER SYSTEM SET ssl_ca_file = 'clients.pem'")
	return s
}

func (s *tlsServer) query(sql string, value any) {
	s.t.Helper()
	err := pgserver.Execute(s.t.Context(), s.server.URL(tlsDatabase), func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, sql).Scan(value)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *tlsServer) exec(statements ...string) {
	s.t.Helper()
	err := pgserver.Execute(s.t.Context(), s.server.URL(tlsDatabase), func(ctx context.Context, conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *tlsServer) write(name string, content []byte) {
	s.t.Helper()
	file := filepath.Join(s.data, name)
	err := os.WriteFile(file, content, 0o600)
	if err == nil {
		err = os.Chown(file, s.server.UID(), -1)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *tlsServer) install(file, name string) {
	s.t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(name, content)
}

// present lets the server show a certificate from now on.
func (s *tlsServer) present(pair certtest.Pair) {
	s.t.Helper()
	s.install(pair.CertFile, "server.crt")
	s.install(pair.KeyFile, "server.key")
	s.exec("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
	want, err := os.ReadFile(pair.CertFile)
	if err != nil {
		s.t.Fatal(err)
	}
	pgtest.Eventually(s.t, "the server has its new certificate", func() bool {
		return s.shows(string(want))
	})
}

// shows asks with the certificate's own file for an authority: only a server that
// presents this very one passes.
func (s *tlsServer) shows(certificate string) bool {
	file := filepath.Join(s.t.TempDir(), "want.pem")
	if err := os.WriteFile(file, []byte(certificate), 0o600); err != nil {
		s.t.Fatal(err)
	}
	err := s.connect(map[string]string{"sslmode": "verify-ca", "sslrootcert": file}, "")
	return err == nil || strings.Contains(err.Error(), "expired")
}

// url is the server's for a role, over TCP, with parameters.
func (s *tlsServer) url(parameters map[string]string, role string) string {
	address, err := url.Parse(s.server.URL(tlsDatabase))
	if err != nil {
		s.t.Fatal(err)
	}
	query := url.Values{}
	for name, value := range parameters {
		query.Set(name, value)
	}
	address.RawQuery = query.Encode()
	if role != "" {
		address.User = url.User(role)
	}
	return address.String()
}

func (s *tlsServer) connect(parameters map[string]string, role string) error {
	pool, err := db.Open(s.t.Context(), db.Options{URL: s.url(parameters, role), MaxConns: 1, ConnectTimeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer pool.Close()
	return pool.Ping(s.t.Context())
}

// refusedAnyhow is a client certificate that the server does not take: it ends the
// connection, and whether its reason is read before that is a race.
const refusedAnyhow = "refused"

func TestTLSToTheDatabase(t *testing.T) {
	t.Parallel()
	ours, theirs := certtest.New(t), certtest.New(t)
	s := startTLSServer(t, ours)
	client, stranger, other, late := ours.Issue("certified", time.Hour), theirs.Issue("certified", time.Hour), ours.Issue("postgres", time.Hour), ours.Issue("certified", -time.Hour)
	with := func(pair certtest.Pair) map[string]string {
		return map[string]string{"sslmode": "verify-full", "sslrootcert": ours.File, "sslcert": pair.CertFile, "sslkey": pair.KeyFile}
	}
	verify := func(mode string, authority *certtest.Authority) map[string]string {
		return map[string]string{"sslmode": mode, "sslrootcert": authority.File}
	}
	for _, presented := range []struct {
		name  string
		pair  certtest.Pair
		cases []struct {
			name, role string
			parameters map[string]string
			err        string // empty where it connects
		}
	}{
		{"its own", ours.Issue("127.0.0.1", time.Hour), []struct {
			name, role string
			parameters map[string]string
			err        string
		}{
			{"disable", "", map[string]string{"sslmode": "disable"}, ""},
			{"require", "", map[string]string{"sslmode": "require"}, ""},
			{"verify-ca", "", verify("verify-ca", ours), ""},
			{"verify-full", "", verify("verify-full", ours), ""},
			{"another authority", "", verify("verify-ca", theirs), "certificate signed by unknown authority"},
			{"a client certificate", "certified", with(client), ""},
			{"no client certificate", "certified", verify("verify-full", ours), "connection requires a valid client certificate"},
			{"a stranger's client certificate", "certified", with(stranger), refusedAnyhow},
			{"another role's client certificate", "certified", with(other), "certificate authentication failed"},
			{"an expired client certificate", "certified", with(late), refusedAnyhow},
		}},
		{"another host's", ours.Issue("127.0.0.2", time.Hour), []struct {
			name, role string
			parameters map[string]string
			err        string
		}{
			{"verify-ca", "", verify("verify-ca", ours), ""},
			{"verify-full", "", verify("verify-full", ours), "certificate is valid for 127.0.0.2, not 127.0.0.1"},
		}},
		{"an expired one", ours.Issue("127.0.0.1", -time.Hour), []struct {
			name, role string
			parameters map[string]string
			err        string
		}{
			{"require", "", map[string]string{"sslmode": "require"}, ""},
			{"verify-ca", "", verify("verify-ca", ours), "certificate has expired"},
			{"verify-full", "", verify("verify-full", ours), "certificate has expired"},
		}},
	} {
		s.present(presented.pair)
		for _, test := range presented.cases {
			err := s.connect(test.parameters, test.role)
			if (err == nil) != (test.err == "") || err != nil && test.err != refusedAnyhow && !strings.Contains(err.Error(), test.err) {
				t.Errorf("the server shows %s, %s: %v; want %q", presented.name, test.name, err, test.err)
			}
		}
	}
}

// Certificates and passwords are renewed under a worker that runs: the next
// connection takes what stands then.
func TestRotatedSecretsNeedNoRestart(t *testing.T) {
	t.Parallel()
	before, after := certtest.New(t), certtest.New(t)
	s := startTLSServer(t, before)
	s.present(before.Issue("127.0.0.1", time.Hour))
	dir := t.TempDir()
	root, password := filepath.Join(dir, "root.pem"), filepath.Join(dir, "password")
	put := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyTo := func(file, from string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		put(file, string(content))
	}
	s.exec("CREATE ROLE worker LOGIN PASSWORD 'first'")
	copyTo(root, before.File)
	put(password, "first\n")
	host, port, _ := strings.Cut(s.server.Address(), ":")
	cfg, err := config.FromEnvironment([]string{"PG_HOST=" + host, "PG_PORT=" + port, "PG_DB=" + tlsDatabase, "PG_USER=worker", "PG_PASS_FILE=" + password})
	if err != nil {
		t.Fatal(err)
	}
	options := db.OptionsFrom(cfg.Database, cfg.ServiceName)
	reload := options.Reload
	options.Reload = func() (string, error) {
		address, err := reload()
		return address + "?sslmode=verify-full&sslrootcert=" + url.QueryEscape(root), err
	}
	options.MinConns = 0
	pool, err := db.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	ping := func(want string) {
		t.Helper()
		pool.Reset()
		err := pool.Ping(t.Context())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	ping("")
	s.exec("ALTER ROLE worker PASSWORD 'second'")
	ping("password authentication failed")
	put(password, "second\n")
	ping("")
	s.present(after.Issue("127.0.0.1", time.Hour))
	ping("certificate signed by unknown authority")
	copyTo(root, after.File)
	ping("")
	if err := os.Remove(password); err != nil {
		t.Fatal(err)
	}
	ping("PG_PASS_FILE: the file cannot be read")
}

// A file that cannot be had is no fault of the connections that stand.
func TestAFailedRotationClosesNoConnection(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	var broken atomic.Bool
	pool, err := db.Open(t.Context(), db.Options{URL: database.URL, MaxConns: 3, ConnectTimeout: 10 * time.Second, Reload: func() (string, error) {
		if broken.Load() {
			return "", errors.New("the file is empty")
		}
		return database.URL, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	client := db.NewClient(pool, 5*time.Second)
	now := func() error {
		return client.Read(t.Context(), func(ctx context.Context, q *db.Queries) error {
			_, err := q.Now(ctx)
			return err
		})
	}
	held, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	broken.Store(true)
	if err := now(); err == nil || !strings.Contains(err.Error(), "the file is empty") { // it needs a second connection
		t.Errorf("%v", err)
	}
	held.Release()
	if err := now(); err != nil {
		t.Errorf("on the connection that stands: %v", err)
	}
}

// libpq's own file is read anew too.
func TestThePasswordFileOfLibpq(t *testing.T) {
	// No t.Parallel: the driver reads PGPASSFILE of the process.
	database := pgtest.New(t)
	role, address := database.Role(t, "")
	parsed, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := parsed.User.Password()
	file := filepath.Join(t.TempDir(), "pgpass")
	put := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("*:*:*:"+role+":"+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(secret)
	t.Setenv("PGPASSFILE", file)
	parsed.User = url.User(role)
	pool, err := db.Open(t.Context(), db.Options{URL: parsed.String(), MaxConns: 2, ConnectTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	database.Exec(t, fmt.Sprintf("ALTER ROLE %s PASSWORD 'rotated'", role))
	put("rotated")
	pool.Reset()
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
}

package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// portAttempts is how many ports are tried: between finding a free one and PostgreSQL taking it, another process may.
const portAttempts = 5

// cluster is a database cluster of the machine's own programs in a temporary directory.
type cluster struct {
	bin        string // where initdb and postgres are
	dir        string // holds data/, log and the password file
	password   string
	credential *syscall.Credential // nil: this process's own user

	address string
	process *os.Process
	exited  <-chan struct{}
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }
func (c *cluster) log() string  { return filepath.Join(c.dir, "log") }

// ErrNoBinaries is the error of StartBinaries on a machine without PostgreSQL's programs.
var ErrNoBinaries = errors.New("no initdb and postgres in PATH or in " + debianPlaces)

// StartBinaries runs the machine's own PostgreSQL on a loopback port. Halt, Resume and Standby need such a server.
func StartBinaries(ctx context.Context) (*Server, error) {
	bin, err := findBinaries(debianPlaces)
	if err != nil {
		return nil, err
	}
	credential, err := Unprivileged()
	if err != nil {
		return nil, err
	}
	c := &cluster{bin: bin, password: Token(), credential: credential}
	return c.run(ctx, "initdb", "--pgdata", "data", "--username", Superuser, "--pwfile", "password",
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
}

// Standby starts a hot standby of the server, which follows it until pg_promote() makes it a primary.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	host, port, err := net.SplitHostPort(s.cluster.address)
	if err != nil {
		return nil, fmt.Errorf("read the primary's address: %w", err)
	}
	c := &cluster{bin: s.cluster.bin, password: s.cluster.password, credential: s.cluster.credential}
	return c.run(ctx, "pg_basebackup", "--pgdata", "data", "--write-recovery-conf", "--checkpoint", "fast", "--no-sync",
		"--host", host, "--port", port, "--username", Superuser)
}

// run makes a cluster with one of PostgreSQL's programs, and starts it. A failure leaves nothing behind.
func (c *cluster) run(ctx context.Context, program string, args ...string) (*Server, error) {
	var err error
	if c.dir, err = os.MkdirTemp(fastDir(), "ops-worker-pg-"); err != nil {
		return nil, fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	err = c.fill(ctx, program, args)
	for range portAttempts {
		if err != nil {
			break
		}
		var server *Server
		if server, err = c.start(ctx); err == nil {
			return server, nil
		}
		if ctx.Err() == nil && strings.Contains(err.Error(), "Address already in use") {
			err = nil
		}
	}
	return nil, errors.Join(err, os.RemoveAll(c.dir))
}

func (c *cluster) fill(ctx context.Context, program string, args []string) error {
	secret := filepath.Join(c.dir, "password")
	if err := os.WriteFile(secret, []byte(c.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the password file: %w", err)
	}
	if c.credential != nil {
		for _, path := range []string{c.dir, secret} {
			if err := os.Chown(path, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
				return fmt.Errorf("hand over %s: %w", path, err)
			}
		}
	}
	command := c.command(ctx, program, args...)
	command.Env = append(command.Env, "PGPASSWORD="+c.password)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", program, err, tail(output))
	}
	return nil
}

// start runs the server on a free port and waits until it answers.
func (c *cluster) start(ctx context.Context) (*Server, error) {
	address, err := FreeAddress(ctx)
	if err != nil {
		return nil, err
	}
	c.address = address
	// The guard finds the server by its own file: Resume gives it another number.
	guard, err := NewGuard(`
		kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")" 2>/dev/null
		for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$1/data/postmaster.pid" ] || break; sleep 0.5; done
		rm -rf "$1"`, c.dir)
	if err != nil {
		return nil, err
	}
	server := New(address, c.password, func() error {
		// SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint, which nobody would read.
		return errors.Join(c.end(syscall.SIGQUIT), os.RemoveAll(c.dir), guard.Dismiss())
	})
	server.cluster = c
	if err := server.Resume(ctx); err != nil {
		return nil, errors.Join(err, guard.Dismiss())
	}
	return server, nil
}

// Halt ends the server with one of PostgreSQL's shutdown signals: SIGINT for a fast shutdown, SIGQUIT for an immediate
// one, which is a crash. Its data and its address stay, for Resume.
func (s *Server) Halt(signal syscall.Signal) error { return s.cluster.end(signal) }

// Resume runs a halted server again, at the same address, and returns when it answers.
func (s *Server) Resume(ctx context.Context) error {
	c := s.cluster
	host, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return fmt.Errorf("read the server's address: %w", err)
	}
	log, err := os.Create(c.log())
	if err != nil {
		return fmt.Errorf("create the server's log: %w", err)
	}
	defer log.Close()
	// The server is not bound to the context: it runs until it is stopped. It has no socket, only TCP on loopback.
	command := c.command(context.WithoutCancel(ctx), "postgres", slices.Concat(Settings(), []string{
		"-D", c.data(), "-c", "listen_addresses=" + host, "-c", "port=" + port, "-c", "unix_socket_directories="})...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = command.Wait() // the log says more
	}()
	c.process, c.exited = command.Process, exited
	if err := s.AwaitReady(ctx, exited); err != nil {
		err = errors.Join(err, c.end(syscall.SIGQUIT))
		output, _ := os.ReadFile(c.log())
		return fmt.Errorf("%w: %s", err, tail(output))
	}
	return nil
}

// UID is the user that the server runs as.
func (s *Server) UID() int {
	if s.cluster.credential == nil {
		return os.Geteuid()
	}
	return int(s.cluster.credential.Uid)
}

// end sends the server a signal that ends it and waits until it has.
func (c *cluster) end(signal syscall.Signal) error {
	if err := c.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop postgres: %w", err)
	}
	select {
	case <-c.exited:
		return nil
	case <-time.After(StepTimeout):
		return errors.Join(errors.New("postgres did not stop in time"), c.process.Kill())
	}
}

// command prepares one of PostgreSQL's programs: in a session of its own, so that a Ctrl-C meant for the tests does not
// stop the server under them, and as a user that it accepts.
func (c *cluster) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	command.Dir = c.dir
	command.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: c.credential}
	return command
}

// debianPlaces is where Debian keeps PostgreSQL's server programs, which are not in PATH there.
const debianPlaces = "/usr/lib/postgresql/*/bin"

// findBinaries looks for initdb and postgres in PATH, and then in the places of a pattern, the newest version first.
func findBinaries(pattern string) (string, error) {
	places, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("look for PostgreSQL: %w", err)
	}
	version := func(place string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(place)))
		return n
	}
	slices.SortFunc(places, func(a, b string) int { return version(b) - version(a) })
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			places = slices.Insert(places, 0, filepath.Dir(path))
		}
	}
	for _, place := range places {
		_, noInit := exec.LookPath(filepath.Join(place, "initdb"))
		_, noServer := exec.LookPath(filepath.Join(place, "postgres"))
		if noInit == nil && noServer == nil {
			return place, nil
		}
	}
	return "", ErrNoBinaries
}

// Unprivileged is the user to run PostgreSQL as: it refuses to run as root. Anybody else runs it as themselves.
func Unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if account, err := user.Lookup(name); err == nil {
			uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
			gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
			if uidErr == nil && gidErr == nil {
				return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
			}
		}
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

// fastDir is the directory for the cluster: a tmpfs if it has room for what a large test writes, since making a database
// means making some 300 files; else the usual one. TMPDIR, if it is set, is respected.
func fastDir() string {
	const (
		memory = "/dev/shm"
		room   = 4 << 30
	)
	var stat syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &stat) == nil && uint64(stat.Bavail)*uint64(stat.Bsize) >= room {
		return memory
	}
	return os.TempDir()
}

// FreeAddress is a loopback address whose port is free at this moment.
func FreeAddress(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// tail is the end of a program's output, where the reason of its failure stands.
func tail(output []byte) string {
	const limit = 2000
	return strings.TrimSpace(string(output[max(0, len(output)-limit):]))
}

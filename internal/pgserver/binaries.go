package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
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

// startBinaries runs the machine's own PostgreSQL on a loopback port.
func startBinaries(ctx context.Context) (*Server, error) {
	bin, err := findBinaries(debianPlaces)
	if err != nil {
		return nil, err
	}
	credential, err := Unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(fastDir(), "ops-worker-pg-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	c := &cluster{bin: bin, dir: dir, password: Token(), credential: credential}
	return c.run(ctx, c.init)
}

// run makes the cluster and starts it. A failure leaves nothing behind.
func (c *cluster) run(ctx context.Context, fill func(context.Context) error) (*Server, error) {
	err := fill(ctx)
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

// init creates the cluster. No file is synced and no socket is configured: only TCP on loopback, with a password.
func (c *cluster) init(ctx context.Context) error {
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
	initdb := c.command(ctx, "initdb", "--pgdata", c.data(), "--username", Superuser, "--pwfile", secret,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	if output, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, tail(output))
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
	watch, err := NewGuard(nil, `
		kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")" 2>/dev/null
		for _ in 1 2 3 4 5 6 7 8 9 10; do [ -e "$1/data/postmaster.pid" ] || break; sleep 0.5; done
		rm -rf "$1"`, c.dir)
	if err != nil {
		return nil, err
	}
	base, err := c.launch(ctx)
	if err != nil {
		return nil, errors.Join(err, watch.Dismiss())
	}
	return &Server{
		backend: Binaries,
		base:    base,
		cluster: c,
		stop: func() error {
			// SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint, which nobody would read.
			return errors.Join(c.end(syscall.SIGQUIT), os.RemoveAll(c.dir), watch.Dismiss())
		},
	}, nil
}

// launch runs the server at the cluster's address and returns the superuser's URL when it answers.
func (c *cluster) launch(ctx context.Context) (*url.URL, error) {
	host, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return nil, fmt.Errorf("read the server's address: %w", err)
	}
	log, err := os.Create(c.log())
	if err != nil {
		return nil, fmt.Errorf("create the server's log: %w", err)
	}
	defer log.Close()

	// The server is not bound to the context: it runs until it is stopped.
	command := c.command(context.WithoutCancel(ctx), "postgres", slices.Concat(Settings(), []string{
		"-D", c.data(),
		"-c", "listen_addresses=" + host,
		"-c", "port=" + port,
		"-c", "unix_socket_directories=",
	})...)
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = command.Wait() // whoever waits on exited reads the log, which says more
	}()
	c.process, c.exited = command.Process, exited

	base, err := AwaitReady(ctx, []*url.URL{SuperuserURL(c.address, c.password)}, exited)
	if err != nil {
		err = errors.Join(err, c.end(syscall.SIGQUIT))
		output, _ := os.ReadFile(c.log())
		return nil, fmt.Errorf("%w: %s", err, tail(output))
	}
	return base, nil
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

// StartBinaries is Start with the machine's own programs alone: the one kind of server that Halt and Resume can handle.
func StartBinaries(ctx context.Context) (*Server, error) { return startBinaries(ctx) }

// ErrNoBinaries is the error of StartBinaries on a machine without PostgreSQL's programs.
var ErrNoBinaries = errors.New("no initdb and postgres")

// Halt ends a server of StartBinaries with one of PostgreSQL's shutdown signals: SIGINT for a fast shutdown, SIGQUIT for
// an immediate one, which is a crash. Its data and its address stay, for Resume.
func (s *Server) Halt(signal syscall.Signal) error { return s.cluster.end(signal) }

// Resume runs a halted server again, at the same address, and returns when it answers.
func (s *Server) Resume(ctx context.Context) error {
	_, err := s.cluster.launch(ctx)
	return err
}

// Standby starts a hot standby of a server of StartBinaries, which follows it until pg_promote() makes it a primary.
func (s *Server) Standby(ctx context.Context) (*Server, error) {
	primary := s.cluster
	host, port, err := net.SplitHostPort(primary.address)
	if err != nil {
		return nil, fmt.Errorf("read the primary's address: %w", err)
	}
	dir, err := os.MkdirTemp(fastDir(), "ops-worker-pg-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	c := &cluster{bin: primary.bin, dir: dir, password: primary.password, credential: primary.credential}
	return c.run(ctx, func(ctx context.Context) error {
		if c.credential != nil {
			if err := os.Chown(dir, int(c.credential.Uid), int(c.credential.Gid)); err != nil {
				return fmt.Errorf("hand over %s: %w", dir, err)
			}
		}
		backup := c.command(ctx, "pg_basebackup", "--pgdata", c.data(), "--write-recovery-conf", "--checkpoint", "fast", "--no-sync",
			"--host", host, "--port", port, "--username", Superuser)
		backup.Env = append(backup.Env, "PGPASSWORD="+c.password)
		if output, err := backup.CombinedOutput(); err != nil {
			return fmt.Errorf("run pg_basebackup: %w: %s", err, tail(output))
		}
		return nil
	})
}

// UID is the user that a server of StartBinaries runs as.
func (s *Server) UID() int {
	if s.cluster.credential == nil {
		return os.Geteuid()
	}
	return int(s.cluster.credential.Uid)
}

// Address is the server's host:port.
func (s *Server) Address() string { return s.base.Host }

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
	var places []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			places = append(places, filepath.Dir(path))
		}
	}
	versions, err := filepath.Glob(pattern)
	if err != nil {
		return "", fmt.Errorf("look for PostgreSQL: %w", err)
	}
	slices.SortFunc(versions, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
	for _, place := range append(places, versions...) {
		if executable(filepath.Join(place, "initdb")) && executable(filepath.Join(place, "postgres")) {
			return place, nil
		}
	}
	return "", fmt.Errorf("%w in PATH or in %s", ErrNoBinaries, pattern)
}

// majorVersion reads the version out of /usr/lib/postgresql/15/bin; 0 when it is not a number.
func majorVersion(path string) int {
	version, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
	return version
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// Unprivileged is the user to run PostgreSQL as: it refuses to run as root. Anybody else runs it as themselves.
func Unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

// fastDir is the directory for the cluster: a tmpfs when it has room for what a large test writes, since making a
// database means making some 300 files; else the usual one. TMPDIR, where it is set, is respected.
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
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	if err := listener.Close(); err != nil {
		return "", fmt.Errorf("give back the free port: %w", err)
	}
	return listener.Addr().String(), nil
}

// tail is the end of a program's output, where the reason of its failure stands.
func tail(output []byte) string {
	const limit = 2000
	if len(output) > limit {
		output = output[len(output)-limit:]
	}
	return strings.TrimSpace(string(output))
}

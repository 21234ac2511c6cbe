package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// server is asked over HTTP/1.1, on connections of its own. net/http writes the
// requests and reads the answers; but its transport spends two goroutines and 8 KiB
// of buffers on each connection, which is most of the worker's memory where it asks
// thousands of services.
type server struct {
	address string      // host:port
	tls     *tls.Config // nil speaks plain HTTP
	// keep is how many connections are kept: one for each loop that asks.
	keep int

	mu      sync.Mutex
	idle    []*connection
	dropped int // how many times the idle ones were
}

// connection is one that stands.
type connection struct {
	net.Conn
	socket  net.Conn // below TLS
	remote  string
	dropped int // of the server, when it was made
	idleAt  time.Time
}

// longestIdle is how long a connection may be idle and is used again.
const longestIdle = 2 * time.Minute

// answer is what a server said.
type answer struct {
	status int
	body   []byte
	// remote is who said it; known as soon as there is a connection.
	remote string
}

// get sends a request and hands what is answered to read; the body is gone when
// that returns. A connection that the other side has closed while it was idle is
// no answer.
func (s *server) get(ctx context.Context, request []byte, read func(answer)) (remote string, err error) {
	for {
		c, kept, err := s.connection(ctx)
		if err != nil {
			return "", err
		}
		began, reusable, err := c.exchange(ctx, request, read)
		if reusable {
			s.put(c)
		} else {
			c.Close()
		}
		if err == nil || began || !kept || ctx.Err() != nil {
			return c.remote, err
		}
	}
}

// connection is an idle one, or a new one.
func (s *server) connection(ctx context.Context) (c *connection, kept bool, err error) {
	for {
		s.mu.Lock()
		n := len(s.idle)
		if n == 0 {
			dropped := s.dropped
			s.mu.Unlock()
			c, err = s.dial(ctx)
			if err == nil {
				c.dropped = dropped
			}
			return c, false, err
		}
		c = s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		if time.Since(c.idleAt) < longestIdle && c.silent() {
			return c, true, nil
		}
		c.Close()
	}
}

func (s *server) dial(ctx context.Context) (*connection, error) {
	socket, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: socket, socket: socket, remote: socket.RemoteAddr().String()}
	if s.tls != nil {
		encrypted := tls.Client(socket, s.tls)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			socket.Close()
			return nil, err
		}
		c.Conn = encrypted
	}
	return c, nil
}

// put keeps a connection.
func (s *server) put(c *connection) {
	c.idleAt = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) < s.keep && c.dropped == s.dropped {
		s.idle = append(s.idle, c)
		return
	}
	c.Close()
}

// drop closes the idle connections; those in use are not kept either.
func (s *server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.idle {
		c.Close()
	}
	s.idle, s.dropped = nil, s.dropped+1
}

// silent reports whether an idle connection stands and nothing has come on it: what
// has would be taken for the next answer.
func (c *connection) silent() bool {
	socket, ok := c.socket.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	empty := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		empty = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && empty
}

// reader is what an answer is read with.
type reader struct {
	limited io.LimitedReader
	buffer  *bufio.Reader
	body    bytes.Buffer
}

var readers = sync.Pool{New: func() any {
	r := &reader{}
	r.buffer = bufio.NewReaderSize(&r.limited, 1<<10)
	return r
}}

var errHeader = fmt.Errorf("the answer's header is longer than %d KiB", maxHeader>>10)

// exchange sends a request and reads what is answered. Began is whether anything
// was, reusable whether the connection may carry another one.
func (c *connection) exchange(ctx context.Context, request []byte, read func(answer)) (began, reusable bool, err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer func() { reusable = stop() && reusable }()
	if _, err := c.Write(request); err != nil {
		return false, false, err
	}
	r := readers.Get().(*reader)
	r.limited = io.LimitedReader{R: c, N: maxHeader}
	r.buffer.Reset(&r.limited)
	defer func() {
		r.limited.R = nil
		if r.body.Cap() <= maxHeader {
			readers.Put(r)
		}
	}()
	var response *http.Response
	for range 5 { // of which all but the last are 1xx
		if response, err = http.ReadResponse(r.buffer, nil); err != nil {
			if r.limited.N <= 0 {
				err = errHeader
			}
			return r.limited.N < maxHeader, false, err
		}
		if response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			break
		}
	}
	r.limited.N = math.MaxInt64
	r.body.Reset()
	// It is not closed, which would read the rest of what is too long.
	n, err := r.body.ReadFrom(io.LimitReader(response.Body, maxBody+1))
	if err == nil || response.StatusCode != http.StatusOK { // then the status says enough
		read(answer{status: response.StatusCode, body: r.body.Bytes(), remote: c.remote})
		return true, err == nil && n <= maxBody && !response.Close && r.buffer.Buffered() == 0, nil
	}
	return true, false, &bodyError{response.StatusCode, err}
}

// bodyError is an answer that broke off.
type bodyError struct {
	status int
	err    error
}

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

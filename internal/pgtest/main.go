package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared is the one server of a test package, started by the first test that asks for a database.
var shared lazyServer

// lazyServer starts a server at most once. After close it starts none.
type lazyServer struct {
	mu     sync.Mutex
	server *server
	err    error
}

var errClosed = errors.New("pgtest: the server is closed")

func (l *lazyServer) get() (*server, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server == nil && l.err == nil {
		l.server, l.err = start(context.Background())
	}
	return l.server, l.err
}

func (l *lazyServer) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	running := l.server
	l.server, l.err = nil, errClosed
	if running == nil {
		return nil
	}
	return running.close()
}

// Main is a TestMain: it runs the tests, closes the server that they started, and exits. When the tests passed, it also
// fails on goroutines that are still there; options name those that are known. After a signal, a panic in a test or a
// time-out of the whole run the server's guard cleans up.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: close the server:", err)
	}
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: goroutines are left after the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

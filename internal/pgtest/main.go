package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
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
	return running.Close()
}

// Main is a TestMain: it runs the tests, closes the server that they started, and exits. When the tests passed, it also
// fails on goroutines that are still there; options name those that are known.
//
// SIGINT and SIGTERM end the server first and then the process. A panic in a test, or a time-out of the whole run, ends
// the process at once: then the server's guard cleans up.
func Main(m *testing.M, options ...goleak.Option) {
	os.Exit(run(m.Run, options))
}

func run(tests func() int, options []goleak.Option) int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var interrupted sync.WaitGroup
	interrupted.Go(func() {
		received, ok := <-signals
		if !ok {
			return
		}
		if err := shared.close(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: close the server:", err)
		}
		status := 128
		if number, ok := received.(syscall.Signal); ok {
			status += int(number)
		}
		os.Exit(status)
	})

	code := func() int {
		// Deferred, so that a panic of the tests' caller closes the server as well.
		defer func() {
			if err := shared.close(); err != nil {
				fmt.Fprintln(os.Stderr, "pgtest: close the server:", err)
			}
		}()
		return tests()
	}()
	signal.Stop(signals)
	close(signals)
	interrupted.Wait()

	if code != 0 {
		return code
	}
	if err := goleak.Find(options...); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: goroutines are left after the tests:", err)
		return 1
	}
	return 0
}

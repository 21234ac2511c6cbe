// Package listener serves /health, /ready and /metrics, if HTTP_ADDR is set.
package listener

import (
	"context"
	"encoding/json"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

// What a client may take of the worker's time and memory.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 30 * time.Second
	maxConnections = 64 // without a request in hand
	maxHeader      = 8 << 10
)

// longestRetry is how soon after an address is free it is listened at.
const longestRetry = 10 * time.Second

// Handler serves /health and /ready, each 200 unless its function fails, and
// /metrics.
func Handler(metrics http.Handler, health, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /health", answer(health, "healthy"))
	mux.Handle("GET /ready", answer(ready, "ready"))
	mux.Handle("GET /metrics", metrics)
	return mux
}

func answer(check func() error, well string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		var body struct {
			Status string `json:"status"`
			Reason string `json:"reason,omitempty"`
		}
		body.Status = well
		if err := check(); err != nil {
			body.Status, body.Reason = "not "+well, faultlog.PlainText(err.Error())
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(body) // of a client that is gone
	}
}

// Serve answers at address until ctx is done. Where the address cannot be had it
// says so and tries again: to monitor the platform is more than to be monitored.
func Serve(ctx context.Context, address string, handler http.Handler, log zerolog.Logger) {
	var faults faultlog.Log
	retry := backoff.New(longestRetry)
	for ctx.Err() == nil {
		socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			log.Info().Str("address", socket.Addr().String()).Msg("HTTP is served")
			err = serve(ctx, socket, handler, log)
		}
		if ctx.Err() != nil {
			return
		}
		faults.Observe(log, fmt.Errorf("HTTP_ADDR: %w", err), "HTTP cannot be served", "HTTP is served again")
		backoff.Wait(ctx, retry.NextBackOff())
	}
}

func serve(ctx context.Context, socket net.Listener, handler http.Handler, log zerolog.Logger) error {
	var quiet quiet
	server := &http.Server{
		Handler:   quiet.handler(handler),
		ConnState: quiet.state,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout + headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          stdlog.New(faultlog.NewWriter(log), "", 0),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // no stop waits for a client
	return server.Serve(socket)
}

// quiet are the connections on which no request is in hand. Of too many the oldest is
// closed: clients that connect and say nothing must not keep out those that ask.
type quiet struct {
	mu    sync.Mutex
	conns []net.Conn // the oldest first
}

type connKey struct{}

func (q *quiet) add(conn net.Conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.conns = append(q.conns, conn)
	if len(q.conns) > maxConnections {
		q.conns[0].Close()
		q.conns = q.conns[1:]
	}
}

func (q *quiet) remove(conn net.Conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.conns = slices.DeleteFunc(q.conns, func(c net.Conn) bool { return c == conn })
}

func (q *quiet) state(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		q.add(conn)
	case http.StateClosed, http.StateHijacked:
		q.remove(conn)
	}
}

func (q *quiet) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			q.remove(conn)
			defer q.add(conn)
		}
		next.ServeHTTP(w, r)
	})
}

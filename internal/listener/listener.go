// Package listener serves /health, /ready and /metrics, if HTTP_ADDR is set.
package listener

import (
	"context"
	"encoding/json"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

// What a client may take of the worker's time and memory. There is no limit to connections:
// clients that say nothing keep nobody out, and go at their time limit.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 30 * time.Second
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
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout + headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          stdlog.New(log, "", 0),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })() // no stop waits for a client
	return server.Serve(socket)
}

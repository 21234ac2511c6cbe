package listener

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

// What a client may take of the worker's time and memory.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	idleTimeout    = 30 * time.Second
	maxConnections = 64
	maxHeader      = 8 << 10
	maxScrapes     = 2
	stopTimeout    = 500 * time.Millisecond
)

// longestRetry is how soon after an address is free it is listened at.
const longestRetry = 10 * time.Second

// Handler serves /health and /ready, each 200 unless its function fails, and
// /metrics.
func Handler(metrics *Metrics, health, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /health", answer(health, "healthy"))
	mux.Handle("GET /ready", answer(ready, "ready"))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		Timeout:             requestTimeout,
	}))
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
		ErrorLog:          stdlog.New(faultlog.NewWriter(log), "", 0),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := server.Shutdown(limited); err != nil {
			_ = server.Close() // it hangs on a client, whom nobody waits for
		}
	})
	err := server.Serve(netutil.LimitListener(socket, maxConnections))
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

package collectors

import (
	"context"

	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

type traceKey struct{}

// traceHeader is what every worker of the platform sends on its outgoing calls.
const traceHeader = "X-Trace-ID"

// withTrace gives a cycle its trace id, and its logger that id.
func withTrace(ctx context.Context, log zerolog.Logger) (context.Context, zerolog.Logger) {
	id := uuid.NewString()
	log = log.With().Str("trace_id", id).Logger()
	return context.WithValue(log.WithContext(ctx), traceKey{}, id), log
}

// traceID is the cycle's trace id, or empty outside of one.
func traceID(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

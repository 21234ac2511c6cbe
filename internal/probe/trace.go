package probe

import "context"

// traceHeader is what every worker of the platform sends on its outgoing calls.
const traceHeader = "X-Trace-ID"

type traceKey struct{}

// WithTraceID lets the probes of a cycle send its trace id, a UUID.
func WithTraceID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, traceKey{}, id)
}

// TraceID is the cycle's trace id, or empty outside of one.
func TraceID(ctx context.Context) string {
	id, _ := ctx.Value(traceKey{}).(string)
	return id
}

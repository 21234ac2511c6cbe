package collectors

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/config"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/lease"
)

// otherWriter lets a start wait until whatever else collects has stopped: two
// that append spoil every rate. The samples wait for samples to stop, and the
// health rows for health rows, which come more seldom.
type otherWriter struct {
	leases  *lease.Postgres
	metrics []string
	// quiet is for how long nothing may have come of a writer that has stopped.
	samplesQuiet, checksQuiet time.Duration
	log                       zerolog.Logger
	beat                      func(loop string, interval time.Duration)
	seen                      func() // the lease, while it waits

	// checks is set while health rows of another are awaited.
	checks bool
}

// otherWriterPoll is how often the tables are looked at.
const otherWriterPoll = time.Second

func newOtherWriter(cfg config.Config, leases *lease.Postgres, log zerolog.Logger, beat func(string, time.Duration), seen func()) *otherWriter {
	return &otherWriter{
		leases:       leases,
		metrics:      []string{config.HealthSample},
		samplesQuiet: max(3*cfg.MetricsInterval, 3*time.Second),
		checksQuiet:  cfg.HealthInterval * 11 / 10,
		log:          log,
		beat:         beat,
		seen:         seen,
	}
}

// awaitSamples returns when nobody but an ops-worker appends samples.
func (o *otherWriter) awaitSamples(ctx context.Context) {
	o.await(ctx, startLoop, "samples", func(ctx context.Context) (age time.Duration, quiet bool, err error) {
		f, err := o.leases.FindForeign(ctx, o.metrics)
		if err != nil {
			return 0, false, err
		}
		o.seen()
		o.checks = f.Check != nil && *f.Check < o.checksQuiet
		if f.Sample == nil {
			return 0, true, nil
		}
		return *f.Sample, *f.Sample >= o.samplesQuiet, nil
	})
}

// awaitChecks returns when nobody refreshes the health rows. It is called before
// the first cycle of the monitor of a term: each row that comes is another's.
func (o *otherWriter) awaitChecks(ctx context.Context) {
	if !o.checks {
		return
	}
	o.await(ctx, HealthLoop, "health rows", func(ctx context.Context) (age time.Duration, quiet bool, err error) {
		age, err = o.leases.CheckAge(ctx)
		return age, err == nil && age >= o.checksQuiet, err
	})
	if ctx.Err() == nil { // a later term waits for nobody
		o.checks = false
	}
}

// await looks until it is quiet or ctx is done.
func (o *otherWriter) await(ctx context.Context, loop, what string, look func(context.Context) (age time.Duration, quiet bool, err error)) {
	var looking faultlog.Log
	var logged time.Time
	began := time.Now()
	for ctx.Err() == nil {
		o.beat(loop, 10*time.Second)
		age, quiet, err := look(ctx)
		if ctx.Err() != nil {
			return
		}
		looking.Observe(o.log, err, "another writer cannot be looked for", "another writer can be looked for again")
		switch {
		case quiet && logged.IsZero():
			return
		case quiet:
			o.log.Info().Str("writes", what).Dur("waited_ms", time.Since(began)).Msg("nothing else writes any more")
			return
		case err == nil && time.Since(logged) >= time.Minute:
			logged = time.Now()
			o.log.Warn().Str("writes", what).Dur("age_ms", age).Msg("something else writes, waiting for it to stop")
		}
		backoff.Wait(ctx, otherWriterPoll)
	}
}

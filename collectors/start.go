package collectors

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
	"ops_worker/internal/schema"
)

const (
	startBackOff = 10 * time.Second
	// startDeadline bounds one attempt. Migrations of a large table take their
	// time, and another replica's may have to be waited for.
	startDeadline = 5 * time.Minute
)

// awaitDatabase prepares the database, with back-off, until ctx ends or the
// database turns out to be one that is refused.
func (w *Worker) awaitDatabase(ctx context.Context) error {
	retry := backoff.New(startBackOff)
	var logged time.Time
	for {
		w.heart.Beat(startLoop, startDeadline)
		err := w.attemptStart(ctx)
		if err == nil || schema.IsRefused(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		delay := retry.NextBackOff()
		if now := time.Now(); now.Sub(logged) >= 30*time.Second {
			logged = now
			w.log.Error().Err(err).Dur("retry_in_ms", delay).Msg("database is not ready, waiting for it")
		}
		if backoff.Wait(ctx, delay); ctx.Err() != nil {
			return nil
		}
	}
}

func (w *Worker) attemptStart(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	defer faultlog.Recovered(w.log.WithContext(ctx), func(panicked error) { err = panicked })
	return w.Prepare(ctx)
}

// Prepare brings the schema up to date and logs what the worker found.
func (w *Worker) Prepare(ctx context.Context) error {
	changes, err := schema.MigrateUp(ctx, w.pool, w.anyDatabase)
	w.schema.log(w.log, changes)
	if err != nil {
		// A replica of an older version may collect right now with the tables that
		// stand; this one can as well.
		if !db.IsForbidden(err) || !w.canCollect(ctx) {
			return db.Unreachable(w.pool, err)
		}
		w.log.Warn().Err(err).Msg("the schema is not brought up to date, the tables that stand are used")
	}
	var session db.DescribeSessionRow
	var role string
	var timescale *schema.Timescale
	if err := w.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		if err := schema.CheckRowSecurity(ctx, q); err != nil {
			return err
		}
		if session, err = q.DescribeSession(ctx); err != nil {
			return err
		}
		if timescale, err = schema.FindTimescale(ctx, q); err != nil {
			return err
		}
		role, err = q.EnterPlatformScope(ctx)
		return err
	}); err != nil {
		return fmt.Errorf("describe session: %w", err)
	}
	target := w.pool.Config().ConnConfig
	w.log.Info().
		Str("database", target.Database).
		Str("host", target.Host).
		Uint16("port", target.Port).
		Str("server_version", session.ServerVersion).
		Str("login_role", session.LoginRole).
		Bool("superuser", session.Superuser).
		Bool("bypass_rls", session.BypassRls).
		Str("platform_role", role).
		Bool("timescaledb", timescale != nil).
		Msg("database is ready")
	return nil
}

// canCollect reports whether the tables stand without which nothing is collected.
func (w *Worker) canCollect(ctx context.Context) bool {
	var stands map[string]schema.Relation
	err := w.client.Read(ctx, func(ctx context.Context, q *db.Queries) (err error) {
		stands, err = schema.StandingRelations(ctx, q)
		return err
	})
	for _, name := range []string{schema.LeaseTable, "system_metrics", "service_health"} {
		if _, exists := stands[name]; !exists {
			return false
		}
	}
	return err == nil
}

const (
	// schemaInterval is how soon after a statement has met a missing table that
	// is made again.
	schemaInterval = 20 * time.Second
	// schemaPatience is how long the schema is left unlooked at.
	schemaPatience = time.Hour
)

// schemaKeeper makes sure of the schema while the worker runs: the platform may
// replace a table, and somebody may drop one.
type schemaKeeper struct {
	client *db.Client
	ensure func(context.Context) ([]schema.Change, error)
	ended  time.Time // the newest run without an error
	// unmade is what could not be made in it: somebody has to mend that, so it is
	// logged once.
	unmade map[schema.Change]bool
}

func newSchemaKeeper(client *db.Client, ensure func(context.Context) ([]schema.Change, error)) *schemaKeeper {
	return &schemaKeeper{client: client, ensure: ensure, ended: time.Now(), unmade: map[schema.Change]bool{}}
}

// cycle ensures where a statement has met a missing table, and otherwise hourly.
func (k *schemaKeeper) cycle(ctx context.Context) error {
	missing := k.client.RelationMissing()
	if !missing && time.Since(k.ended) < schemaPatience {
		return nil
	}
	changes, err := k.ensure(ctx)
	if err != nil {
		return err
	}
	k.ended = time.Now()
	k.log(*zerolog.Ctx(ctx), changes)
	return nil
}

// log logs how much was done, and what could not be done unless it was logged
// before.
func (k *schemaKeeper) log(log zerolog.Logger, changes []schema.Change) {
	before := k.unmade
	k.unmade = map[schema.Change]bool{}
	done := map[string]int{}
	for _, c := range changes {
		event := log.Debug()
		if c.Failed() {
			k.unmade[c] = true
			if before[c] {
				continue
			}
			event = log.Warn()
		} else {
			done[c.Action]++
		}
		event.Str("object", c.Object).Str("action", c.Action).Str("detail", c.Detail).Msg("schema change")
	}
	if len(done) > 0 {
		event := log.Info()
		for _, action := range slices.Sorted(maps.Keys(done)) {
			event = event.Int(action, done[action])
		}
		event.Msg("schema brought up to date")
	}
}

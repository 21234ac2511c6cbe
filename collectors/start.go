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
	longestStartBackOff = 10 * time.Second
	// startDeadline bounds one attempt. It may migrate a large table, or wait until
	// another replica has.
	startDeadline = 5 * time.Minute
	// schemaInterval is how soon a missing table that a statement has met is made again.
	schemaInterval = 20 * time.Second
	// schemaRecheck is how often the schema is checked without that.
	schemaRecheck = time.Hour
)

// awaitDatabase prepares the database, with back-off. It ends with ctx, or with an
// error if the database is not one for the worker.
func (w *Worker) awaitDatabase(ctx context.Context) error {
	retry := backoff.New(longestStartBackOff)
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
		// The existing tables are enough: an older replica may be collecting with
		// them right now.
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
	names := []string{schema.LeaseTable, "system_metrics", "service_health"}
	standing := 0
	err := w.client.Read(ctx, func(ctx context.Context, q *db.Queries) error {
		rows, err := q.DescribeRelations(ctx, names)
		standing = len(rows)
		return err
	})
	return err == nil && standing == len(names)
}

// schemaKeeper keeps the schema complete while the worker runs: the platform may replace
// a table, and somebody may drop one.
type schemaKeeper struct {
	client    *db.Client
	ensure    func(context.Context) ([]schema.Change, error)
	checkedAt time.Time              // by the newest check without an error
	failed    map[schema.Change]bool // in that check, and logged
}

func newSchemaKeeper(client *db.Client, ensure func(context.Context) ([]schema.Change, error)) *schemaKeeper {
	return &schemaKeeper{client: client, ensure: ensure, checkedAt: time.Now(), failed: map[schema.Change]bool{}}
}

// cycle checks the schema after a statement has met a missing table, else hourly.
func (k *schemaKeeper) cycle(ctx context.Context) error {
	if !k.client.RelationMissing() && time.Since(k.checkedAt) < schemaRecheck {
		return nil
	}
	changes, err := k.ensure(ctx)
	if err != nil {
		return err
	}
	k.checkedAt = time.Now()
	k.log(*zerolog.Ctx(ctx), changes)
	return nil
}

// log logs how much was done, and each failed change once: a person has to mend it.
func (k *schemaKeeper) log(log zerolog.Logger, changes []schema.Change) {
	loggedBefore := k.failed
	k.failed = map[schema.Change]bool{}
	done := map[string]int{}
	for _, c := range changes {
		event := log.Debug()
		if c.Failed() {
			k.failed[c] = true
			if loggedBefore[c] {
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

package collectors

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/db"
	"ops_worker/internal/schema"
)

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

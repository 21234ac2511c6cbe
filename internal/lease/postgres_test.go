package lease_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"ops_worker/db"
	"ops_worker/internal/lease"
	"ops_worker/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// onDatabase is a client of a database of the test's own.
func onDatabase(t *testing.T, limit time.Duration) (*pgxpool.Pool, *db.Client) {
	t.Helper()
	pool := pgtest.New(t).Pool(t)
	return pool, db.NewClient(pool, limit)
}

func acquire(t *testing.T, client *db.Client, holder string) lease.Token {
	t.Helper()
	grant, err := lease.NewPostgres(client, 0).Acquire(t.Context(), holder, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return lease.Token{Holder: holder, Epoch: grant.Epoch}
}

const (
	waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
	idling  = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
)

func TestTheLeaseHasOneHolder(t *testing.T) {
	t.Parallel()
	_, client := onDatabase(t, 5*time.Second)
	store := lease.NewPostgres(client, 0)
	var won []string
	var mu sync.Mutex
	var asking sync.WaitGroup
	for i := range 8 {
		asking.Go(func() {
			holder := fmt.Sprint("replica-", i)
			_, err := store.Acquire(t.Context(), holder, time.Minute)
			if err != nil && !errors.Is(err, lease.ErrLost) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, holder)
			}
		})
	}
	asking.Wait()
	state, err := store.Look(t.Context())
	if err != nil || len(won) != 1 || !state.Held || state.Holder != won[0] {
		t.Errorf("won by %v, %+v, %v", won, state, err)
	}
}

func TestATakeoverWaitsForTheStoreInFlight(t *testing.T) {
	t.Parallel()
	pool, client := onDatabase(t, 5*time.Second)
	token := acquire(t, client, "a")
	// Another transaction has what the store needs.
	other, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), "LOCK TABLE service_health"); err != nil {
		t.Fatal(err)
	}
	var storing sync.WaitGroup
	storing.Go(func() {
		err := lease.Fenced(t.Context(), client, token, save)
		if err != nil {
			t.Error(err)
		}
	})
	pgtest.Eventually(t, "the store waits for a lock", func() bool { return pgtest.Count(t, pool, waiting) == 1 })
	// The lease runs out while the store is in flight.
	if _, err := pool.Exec(t.Context(), "UPDATE ops_worker_lease SET expires_at = clock_timestamp()"); err != nil {
		t.Fatal(err)
	}
	taken := make(chan error, 1)
	go func() {
		_, err := lease.NewPostgres(client, 0).Acquire(t.Context(), "b", time.Minute)
		taken <- err
	}()
	pgtest.Eventually(t, "the take-over waits for a lock too", func() bool { return pgtest.Count(t, pool, waiting) == 2 })
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	storing.Wait()
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

// save is a write.
func save(ctx context.Context, q *db.Queries) error {
	_, err := q.UpsertServiceHealth(ctx, db.UpsertServiceHealthParams{
		Services: []string{"a"}, Statuses: []string{"healthy"}, LatenciesMs: []int32{1}, Details: []string{"{}"}, CheckedAt: time.Now()})
	return err
}

func TestAStoreWithoutTheLeaseWritesNothing(t *testing.T) {
	t.Parallel()
	pool, client := onDatabase(t, 5*time.Second)
	token := acquire(t, client, "a")
	const rows = "SELECT count(*) FROM service_health"
	for name, lost := range map[string]lease.Token{"another's": {Holder: "b", Epoch: token.Epoch}, "an earlier one": {Holder: "a", Epoch: token.Epoch - 1}} {
		if err := lease.Fenced(t.Context(), client, lost, save); !errors.Is(err, lease.ErrLost) || pgtest.Count(t, pool, rows) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := lease.Fenced(t.Context(), client, token, save); err != nil || pgtest.Count(t, pool, rows) != 1 {
		t.Errorf("with the lease: %v", err)
	}
}

func TestAStoppedStoreDoesNotHoldTheLeaseForEver(t *testing.T) {
	t.Parallel()
	pool, patient := onDatabase(t, 5*time.Second)
	token := acquire(t, patient, "a")
	client := db.NewClient(pool, 300*time.Millisecond)
	err := client.Write(t.Context(), func(ctx context.Context, q *db.Queries) error {
		if _, err := q.HoldLease(ctx, db.HoldLeaseParams{Name: db.LeaseName, Holder: token.Holder, Epoch: token.Epoch}); err != nil {
			return err
		}
		// As a process that is stopped here: the transaction idles.
		pgtest.Eventually(t, "the server ends the idle transaction", func() bool { return pgtest.Count(t, pool, idling) == 0 })
		_, err := q.Now(ctx)
		return err
	})
	if err == nil {
		t.Error("the store should fail when it wakes")
	}
}

// A lease runs out after its ttl at the latest. What lies further ahead was
// written by a clock that was wrong, or by hand; and a lease without a holder is
// free, whatever its time.
func TestALeaseOfTheFutureIsNotHeld(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		write string
		held  bool
	}{
		"a clock that was ahead":      {"UPDATE ops_worker_lease SET expires_at = now() + interval '400 days', acquired_at = now() + interval '399 days'", false},
		"a little more than it lasts": {"UPDATE ops_worker_lease SET expires_at = now() + interval '62 seconds'", false},
		"handed back":                 {"UPDATE ops_worker_lease SET holder = '', expires_at = now() + interval '1 hour'", false},
		"a longer lease than ours":    {"UPDATE ops_worker_lease SET expires_at = now() + interval '9 minutes', ttl = '10 minutes'", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, client := onDatabase(t, 5*time.Second)
			acquire(t, client, "a") // for a minute
			if _, err := pool.Exec(t.Context(), test.write); err != nil {
				t.Fatal(err)
			}
			store := lease.NewPostgres(client, 0)
			state, err := store.Look(t.Context())
			if err != nil || state.Held != test.held {
				t.Errorf("%+v, %v; want held %v", state, err, test.held)
			}
			if _, err := store.Acquire(t.Context(), "b", 15*time.Second); (err == nil) == test.held {
				t.Errorf("acquire: %v", err)
			}
			if test.held {
				return
			}
			if state, err := store.Look(t.Context()); err != nil || !state.Held || state.Holder != "b" {
				t.Errorf("after the take-over: %+v, %v", state, err)
			}
		})
	}
}

// Of a lost row what it said of the newest cycle is in the samples.
func TestALostRowBeginsAtTheNewestSample(t *testing.T) {
	t.Parallel()
	pool, client := onDatabase(t, 5*time.Second)
	acquire(t, client, "a")
	newest := time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond)
	if _, err := pool.Exec(t.Context(), `INSERT INTO system_metrics (time, metric_name, value)
		SELECT $1::timestamptz - make_interval(secs => i), 'm' || i % 5, i FROM generate_series(0, 50) i`, newest); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "INSERT INTO system_metrics (time, metric_name, value) VALUES (now() + interval '3 days', 'm1', 0)"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "DELETE FROM ops_worker_lease"); err != nil {
		t.Fatal(err)
	}
	grant, err := lease.NewPostgres(client, 0).Acquire(t.Context(), "b", time.Minute)
	if err != nil || !grant.LastCycleAt.Equal(newest) {
		t.Errorf("begins at %s, %v; want %s", grant.LastCycleAt, err, newest)
	}
}

func TestAnEmptyTableBeginsAtTheEpoch(t *testing.T) {
	t.Parallel()
	_, client := onDatabase(t, 5*time.Second)
	grant, err := lease.NewPostgres(client, 0).Acquire(t.Context(), "a", time.Minute)
	if err != nil || grant.LastCycleAt.Unix() != 0 || grant.Epoch != 1 {
		t.Errorf("%+v, %v", grant, err)
	}
}

// A stop hands the lease back also over a connection that has died meanwhile.
func TestALeaseIsHandedBackOverADeadConnection(t *testing.T) {
	t.Parallel()
	database := pgtest.New(t)
	pool, err := db.Open(t.Context(), db.Options{URL: database.URL, MaxConns: 1, ConnectTimeout: 5 * time.Second, ApplicationName: "holder"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	client := db.NewClient(pool, 5*time.Second)
	token := acquire(t, client, "a")
	direct := database.Pool(t)
	pgtest.Rows(t, direct, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder' AND datname = current_database()")
	if err := lease.NewPostgres(client, 0).Release(t.Context(), token); err != nil {
		t.Error(err)
	}
	pgtest.WantRows(t, direct, "SELECT holder FROM ops_worker_lease", "")
}

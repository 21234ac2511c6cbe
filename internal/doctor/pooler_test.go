package doctor

import (
	"context"
	"strings"
	"testing"
	"time"

	"ops_worker/internal/pgtest"
)

func TestPooler(t *testing.T) {
	t.Parallel()
	const transaction, session = "in transaction mode", "in session mode"
	for name, test := range map[string]struct {
		mode, settings string
		want           string
		result         Result
	}{
		"transaction":                             {"transaction", "", transaction, OK},
		"transaction, one server":                 {"transaction", "default_pool_size = 1", transaction, OK},
		"transaction, two servers in turn":        {"transaction", "default_pool_size = 2\nserver_round_robin = 1", transaction, OK},
		"session":                                 {"session", "", session, OK},
		"session, two servers":                    {"session", "default_pool_size = 2", session, OK},
		"session, one server":                     {"session", "default_pool_size = 1", "its mode is not known", Warn},
		"statement, in which nothing can be done": {"statement", "", "a pooler in statement mode", Fail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			cfg, err := s.config()
			if err != nil {
				t.Fatal(err)
			}
			cfg.Database.URL = pgtest.NewPgBouncer(t, s.database.URL, test.mode, test.settings).URL
			x := &run{cfg: cfg, limits: defaultLimits, now: time.Now}
			defer x.openWithoutProbes(t)()
			f := &findings{result: OK}
			for _, check := range []func(context.Context, *run, *findings) error{checkConnection, checkPooler} {
				if err := check(t.Context(), x, f); err != nil {
					t.Fatal(err)
				}
			}
			if found := strings.Join(f.found, "\n"); f.result != test.result || !strings.Contains(found, test.want) {
				t.Errorf("%s: %q\nwant %s: %q", f.result, found, test.result, test.want)
			}
		})
	}
}

// openWithoutProbes opens the pool alone: a probe of the database would take
// the one server connection that some poolers here have.
func (r *run) openWithoutProbes(t *testing.T) (free func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // before the probes begin
	return r.open(ctx)
}

// TestThroughPooler runs all checks through a pooler in transaction mode.
func TestThroughPooler(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.env["DATABASE_URL"] = pgtest.NewPgBouncer(t, s.database.URL, "transaction", "").URL
	for _, c := range s.run(t).Checks {
		if c.Result != OK && c.Name != "server version" {
			t.Errorf("%s is %s: %q", c.Name, c.Result, c.Found)
		}
	}
}

package doctor

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"ops_worker/internal/lease"
	"ops_worker/internal/spool"
)

// cutOverQueries are the two queries of the proof in docs/cut-over.md, as they stand
// there. What it says of a row and an alert that are left behind is doctor's advice.
func cutOverQueries(t *testing.T) (twice, holder string) {
	t.Helper()
	document, err := os.ReadFile("../../docs/cut-over.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(document), "```sql\n")[1:]
	if len(blocks) != 3 {
		t.Fatalf("the document has %d queries, want 3", len(blocks))
	}
	for i, block := range blocks {
		blocks[i], _, _ = strings.Cut(block, "```")
	}
	if want := closeAlert("delivery_worker") + "\n" + deleteRow("delivery_worker") + "\n"; blocks[2] != want {
		t.Errorf("the document has %q, and doctor says %q", blocks[2], want)
	}
	return blocks[0], blocks[1]
}

func TestCutOverQueries(t *testing.T) {
	t.Parallel()
	twice, holder := cutOverQueries(t)
	if !strings.Contains(twice, "interval '5 seconds'") || !strings.Contains(twice, "interval '60 seconds'") {
		t.Error("the intervals in the first query are not the defaults")
	}
	// The fixture's worker collects every ten seconds.
	twice = strings.Replace(twice, "interval '5 seconds'", "interval '10 seconds'", 1)

	for name, test := range map[string]struct {
		plant func(t *testing.T, s *stage)
		want  []string // in the first column and the second
		held  bool
	}{
		"one process": {plant: func(*testing.T, *stage) {}, held: true},
		"one process, after a take-over": {held: true, plant: func(t *testing.T, s *stage) {
			grant, err := lease.NewPostgres(s.client, 0).Acquire(t.Context(), s.token.Holder, time.Hour) // a new epoch, off the old one's beat
			if err != nil {
				t.Fatal(err)
			}
			s.token.Epoch = grant.Epoch
			sample := spool.Sample{Service: "postgres", Metric: "connections", Tags: "{}"}
			if _, _, err := s.store.AppendCycles(t.Context(), s.token, []spool.Cycle{{At: s.last.Add(500 * time.Millisecond), Samples: []spool.Sample{sample}}}, false); err != nil {
				t.Fatal(err)
			}
			s.health(t, s.now, "ingest", "evaluator", "postgres")
		}},
		"two processes": {held: true, plant: func(t *testing.T, s *stage) { s.interleave(t, 0) }, want: []string{
			"system_metrics: connections of postgres", "system_metrics: devices_online of platform",
			"system_metrics: healthy of evaluator", "system_metrics: healthy of ingest", "system_metrics: healthy of postgres"}},
		"two health monitors": {held: true, plant: func(t *testing.T, s *stage) {
			s.database.Exec(t, "UPDATE service_health SET checked_at = checked_at + interval '1 second' WHERE service = 'ingest'")
		}, want: []string{"service_health: rows of one cycle"}},
		"the API alone": {plant: func(t *testing.T, s *stage) {
			s.release(t)
			s.database.Exec(t, "UPDATE service_health SET checked_at = checked_at + interval '1 second' WHERE service = 'ingest'")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			test.plant(t, s)
			rows, err := s.pool.Query(t.Context(), twice)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
				var table, what string
				err := row.Scan(&table, &what, nil, nil)
				return table + ": " + what, err
			})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
				t.Errorf("written twice: %q, want %q", got, test.want)
			}

			var who string
			var since time.Time
			var held bool
			if err := s.pool.QueryRow(t.Context(), holder).Scan(&who, &since, nil, &held, nil); err != nil {
				t.Fatal(err)
			}
			if who != s.token.Holder || since.IsZero() || held != test.held {
				t.Errorf("holder %q since %s, held %v; want %q, held %v", who, since, held, s.token.Holder, test.held)
			}
		})
	}
}

// TestAdviceNamesPartsOfTheGuide keeps what doctor says of another writer in step
// with the document's headings: one for each release.
func TestAdviceNamesPartsOfTheGuide(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/cut-over.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, advice := range []string{adviceBefore, adviceWhileHeld} {
		parts := regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(advice, -1)
		if len(parts) != 3 {
			t.Errorf("%q names %d parts, want 3", advice, len(parts))
		}
		for _, part := range parts {
			if !strings.Contains(string(document), "\n## "+part[1]+"\n") {
				t.Errorf("the document has no part %q", part[1])
			}
		}
	}
}

// TestCutOverNamesChecks keeps the document's excerpts of the doctor's output
// in step with its checks.
func TestCutOverNamesChecks(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../docs/cut-over.md")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range checks {
		names[c.name] = true
	}
	excerpts := 0
	for line := range strings.Lines(string(document)) {
		for _, result := range []Result{OK, Warn, Fail, Skipped} {
			name, _, found := strings.Cut(line, "  "+string(result)+"  ")
			if name = strings.TrimSpace(name); found && strings.Contains(line, "  ") {
				excerpts++
				if !names[name] {
					t.Errorf("the document names a check %q, which there is not", name)
				}
			}
		}
	}
	if excerpts < 5 {
		t.Errorf("%d lines of the doctor's output, want at least 5", excerpts)
	}
}

// After a rolling restart the new leader's beat is another: its points come sooner than
// an interval after the old one's, and there is one writer all the same.
func TestARollingRestartIsNoSecondWriter(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for i := range 6 {
		grant, err := lease.NewPostgres(s.client, 0).Acquire(t.Context(), s.token.Holder, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		s.token.Epoch = grant.Epoch
		cycle := spool.Cycle{At: s.last.Add(time.Duration(i+1) * 400 * time.Millisecond)}
		for _, service := range []string{"ingest", "evaluator", "postgres"} {
			cycle.Samples = append(cycle.Samples, spool.Sample{Service: service, Metric: "healthy", Tags: "{}", Value: 1})
		}
		if _, _, err := s.store.AppendCycles(t.Context(), s.token, []spool.Cycle{cycle}, false); err != nil {
			t.Fatal(err)
		}
		s.health(t, s.now, "ingest", "evaluator", "postgres")
	}
	if c := of(t, s.run(t), "other writer"); c.Result != OK {
		t.Errorf("%+v", c)
	}
}

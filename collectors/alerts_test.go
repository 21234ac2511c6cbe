package collectors

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ops_worker/internal/config"
	"ops_worker/internal/lease"
	"ops_worker/internal/logtest"
	"ops_worker/internal/maintenance"
	"ops_worker/internal/notify"
	"ops_worker/internal/probe"
	"ops_worker/internal/spool"
)

// stage is a health monitor with three services, a check a minute, in a synctest bubble.
type stage struct {
	t       *testing.T
	began   time.Time
	store   *fakeStore
	lease   *lease.Lease
	after   alertsAfter
	buffer  spool.Buffer
	monitor *healthMonitor
	log     logtest.Log
	ill     string // the services that are, by blanks
	away    bool   // the database
	deaf    bool   // nobody can be told
	heard   []string
}

// play runs a test on a stage whose alerts open and close at once.
func play(t *testing.T, test func(*testing.T, *stage)) {
	t.Helper()
	playAfter(t, alertAtOnce, test)
}

func playAfter(t *testing.T, after alertsAfter, test func(*testing.T, *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, began: time.Now(), store: newFakeStore(), after: after, buffer: spool.NewMemory(1)}
		s.lease = heldLease(t, s.store)
		s.store.Fail = func(string) error {
			if s.away {
				return errors.New("away")
			}
			return nil
		}
		s.replace()
		test(t, s)
	})
}

// replace is another process with the same lease.
func (s *stage) replace() {
	probes := map[string]probe.Probe{}
	for _, name := range []string{"api", "ingest", config.DatabaseService} {
		probes[name] = func(context.Context) probe.Reading {
			if slices.Contains(strings.Fields(s.ill), name) || s.away && name == config.DatabaseService {
				return probe.Reading{Status: probe.Down, Err: "connection refused"}
			}
			return probe.Reading{Status: probe.Healthy}
		}
	}
	s.monitor = monitorWith(watching(config.ProbeCounters, probes), s.store, s.lease, time.Minute, s.after, s, s.buffer)
}

// Tell hears each event once, as a webhook does.
func (s *stage) Tell(_ time.Time, due []notify.Event, _ []notify.Alert) (told []notify.Event) {
	if s.deaf {
		return nil
	}
	for _, e := range due {
		if name := s.name(e); !slices.Contains(s.heard, name) {
			s.heard = append(s.heard, name)
		}
	}
	return due
}

// name is an event, with its minutes.
func (s *stage) name(e notify.Event) string {
	text := fmt.Sprintf("%s %d", e.Service, s.minute(e.Opened))
	if e.Closing {
		text += fmt.Sprintf("-%d", s.minute(e.Closed))
	}
	return text
}

func (s *stage) minute(at time.Time) int { return int(at.Sub(s.began) / time.Minute) }

// check is a check with these services ill, and then a minute. A database that is away
// is ill too, and each check says so.
func (s *stage) check(ill string) {
	s.t.Helper()
	s.ill = ill
	err := s.monitor.cycle(s.log.Logger().WithContext(s.t.Context()))
	if (err != nil) != s.away {
		s.t.Errorf("minute %d: %v", s.minute(time.Now()), err)
	}
	pass(time.Minute)
}

// superseded is a look at the lease while another replica has it.
func (s *stage) superseded() { s.monitor.alerts.superseded(s.log.Logger()) }

// outage is so many checks while the database is away.
func (s *stage) outage(checks ...string) {
	s.t.Helper()
	s.away = true
	for _, ill := range checks {
		s.check(ill)
	}
	s.away = false
}

// want compares the alerts that are over, with their minutes, and those that are open.
func (s *stage) want(over, open string) {
	s.t.Helper()
	var past []string
	for _, p := range s.store.past {
		past = append(past, s.name(notify.Event{Alert: p.Alert, Closing: true}))
	}
	var standing []string
	for _, service := range slices.Sorted(maps.Keys(s.store.open)) {
		standing = append(standing, fmt.Sprintf("%s %d", service, s.minute(s.store.opened[service])))
	}
	if got := strings.Join(past, ", "); got != over {
		s.t.Errorf("over: %s; want %s", got, over)
	}
	if got := strings.Join(standing, ", "); got != open {
		s.t.Errorf("open: %s; want %s", got, open)
	}
}

// wantHeard compares what somebody was told.
func (s *stage) wantHeard(events ...string) {
	s.t.Helper()
	if diff := cmp.Diff(events, s.heard); diff != "" {
		s.t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestAnOutageOfTheDatabaseLeavesItsAlert(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.check("")
		s.outage("", "", "")
		s.wantHeard("postgres 1") // while it lasts
		s.want("", "")
		s.check("")
		s.want("postgres 1-4", "")
		s.wantHeard("postgres 1", "postgres 1-4")
		s.check("")
		s.want("postgres 1-4", "")
		details := string(s.store.past[0].Details)
		if !strings.Contains(details, `"reason":"connection refused"`) || !strings.Contains(details, `"kind":"system_health"`) {
			t.Errorf("details %s", details)
		}
	})
}

func TestWhatAnOutageHidIsOpenedAndClosedAtItsTimes(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.check("ingest")
		s.want("", "ingest 0")
		s.outage("ingest", "api", "api", "ingest", "ingest")
		s.check("ingest")
		s.want("ingest 0-2, api 2-4, postgres 1-6", "ingest 4")
		s.wantHeard("ingest 0", "postgres 1", "api 2", "ingest 0-2", "api 2-4", "ingest 4", "postgres 1-6")
		s.check("ingest")
		s.check("")
		s.want("ingest 0-2, api 2-4, postgres 1-6, ingest 4-8", "")
		s.check("")
		if len(s.store.messages) != 0 {
			t.Errorf("%v", s.store.messages)
		}
	})
}

func TestTooFewChecksAreNoOutage(t *testing.T) {
	playAfter(t, alertsAfter{3, 2}, func(t *testing.T, s *stage) {
		s.check("")
		s.outage("", "api")
		s.check("api")
		s.check("api")
		s.want("", "api 2")
		s.outage("api", "api", "", "")
		s.check("")
		s.check("")
		s.want("api 2-7, postgres 5-9", "")
		s.wantHeard("api 2", "postgres 5", "api 2-7", "postgres 5-9")
	})
}

// A process that goes on after another one knows its outage from the spool.
func TestAnOutageOutlivesTheProcessWithASpool(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		buffer, _, err := spool.Open(t.TempDir(), 10)
		if err != nil {
			t.Fatal(err)
		}
		defer buffer.Close()
		s.buffer = buffer
		s.replace()
		s.check("")
		s.outage("api", "api")
		s.replace()
		s.check("api")
		s.want("postgres 1-3", "api 1")
		s.wantHeard("api 1", "postgres 1", "postgres 1-3")
		s.check("api")
		var left record
		if err := buffer.Kept(&left); err != nil || left.Streaks != nil {
			t.Errorf("the spool still has %+v, %v", left, err)
		}
	})
	play(t, func(t *testing.T, s *stage) { // without it
		s.check("")
		s.outage("api", "api")
		s.replace()
		s.check("api")
		s.want("", "api 3")
	})
}

// tellerWith tells somebody by a function.
type tellerWith func(due []notify.Event)

func (f tellerWith) Tell(_ time.Time, due []notify.Event, _ []notify.Alert) []notify.Event {
	f(due)
	return due
}

// A process may end as soon as somebody has heard of an alert.
func TestTheSpoolHasWhatIsTold(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		buffer, _, err := spool.Open(t.TempDir(), 10)
		if err != nil {
			t.Fatal(err)
		}
		defer buffer.Close()
		s.buffer = buffer
		s.replace()
		told := 0
		s.monitor.alerts.webhook = tellerWith(func(due []notify.Event) {
			var left record
			if err := buffer.Kept(&left); err != nil {
				t.Error(err)
			}
			for _, e := range due {
				if told++; !hasEvent(left.Untold, e) {
					t.Errorf("the spool does not have %s", s.name(e))
				}
			}
		})
		s.check("")
		s.outage("api", "")
		if told != 5 { // two openings, then those and a closing
			t.Errorf("%d events were told", told)
		}
	})
}

func TestMaintenance(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		window := func(from, to int, services ...string) maintenance.Window {
			return maintenance.Window{Starts: s.began.Add(time.Duration(from) * time.Minute), Ends: s.began.Add(time.Duration(to) * time.Minute), Services: services}
		}
		s.store.windows = maintenance.Windows{window(1, 4, "api", "postgres")}
		s.check("api")
		s.check("api ingest") // ingest is not covered
		s.check("ingest")     // closed, and nobody is told yet
		s.want("api 0-2", "ingest 1")
		s.wantHeard("api 0", "ingest 1")
		s.check("api ingest")
		s.check("api") // the window is over
		s.want("api 0-2, ingest 1-4", "api 4")
		s.wantHeard("api 0", "ingest 1", "api 0-2", "api 4", "ingest 1-4")

		s.store.windows = maintenance.Windows{window(5, 8)}
		s.check("")
		s.outage("", "")
		s.check("")
		s.outage("", "") // the second one begins when the window, which is known, is over
		s.check("")
		s.want("api 0-2, ingest 1-4, api 4-5, postgres 9-11", "")

		s.store.windows = maintenance.Windows{window(11, 14)}
		s.check("") // what began before, and lasts, is told when it is over
		s.outage("", "", "")
		s.check("")
		s.want("api 0-2, ingest 1-4, api 4-5, postgres 9-11, postgres 14-16", "")
	})
}

// A process that starts when the window is over knows it all the same.
func TestWhatAWindowHeldBackOpensAfterARestart(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.store.windows = maintenance.Windows{{Starts: s.began, Ends: s.began.Add(3 * time.Minute)}}
		s.check("api")
		s.check("api")
		pass(5 * time.Minute)
		s.replace()
		s.check("api")
		s.want("", "api 7")
		s.wantHeard("api 7")
	})
}

func TestWindowsThatCannotBeReadStopNoAlert(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		for minute, err := range []error{maintenance.ErrNoTable, errors.New("permission denied")} {
			s.store.Fail = func(operation string) error {
				if operation == "windows" {
					return err
				}
				return nil
			}
			s.check([]string{"api", "ingest"}[minute])
		}
		s.want("api 0-1", "ingest 1")
		if lines := s.log.Lines(t, "maintenance windows cannot be read, alerts go on"); len(lines) != 1 || lines[0]["error"] != "permission denied" {
			t.Error(s.log.String())
		}
	})
}

// What nobody could be told, or whose telling could not be written down, is told again:
// by this process or the next one.
func TestEachEventIsToldAtLeastOnce(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.deaf = true
		s.check("api")
		s.check("ingest")
		s.replace()
		s.check("")
		s.deaf = false
		s.replace()
		s.check("")
		s.wantHeard("api 0", "api 0-1", "ingest 1", "ingest 1-2")
		s.heard = nil
		s.check("")
		s.wantHeard()

		s.store.Fail = func(operation string) error {
			if operation == "told" {
				return errors.New("cut off")
			}
			return nil
		}
		s.ill = "api"
		if err := s.monitor.cycle(t.Context()); err == nil {
			t.Error("a write that failed is no error")
		}
		s.wantHeard("api 5")
		s.store.Fail, s.heard = nil, nil
		s.replace()
		s.check("api")
		s.wantHeard("api 5")
	})
}

// At the end of a term it is written down that an alert has been told.
func TestWhatIsToldIsNotToldAgainAfterAStop(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.deaf = true
		s.check("api")
		s.deaf = false // the answer comes after the check
		if err := s.monitor.alerts.finish(t.Context()); err != nil {
			t.Error(err)
		}
		s.wantHeard("api 0")
		s.heard = nil
		s.replace()
		s.check("api")
		s.wantHeard()
	})
}

// An alert that the table refuses is told all the same, and stored when it can be.
func TestAnAlertThatIsRefusedIsTold(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.store.Fail = func(operation string) error {
			if operation == "alerts" {
				return errors.New("refused")
			}
			return nil
		}
		for range 2 {
			s.ill = "api"
			if err := s.monitor.cycle(t.Context()); err == nil {
				t.Error("no error")
			}
			pass(time.Minute)
		}
		s.wantHeard("api 0")
		s.store.Fail = nil
		s.check("api")
		s.want("", "api 0")
		s.check("")
		s.want("api 0-3", "")
		s.wantHeard("api 0", "api 0-3")
	})
}

// One alert that is refused for ever keeps none of the others from being marked as told,
// and nothing piles up.
func TestWhatIsToldIsMarkedBesideAnAlertThatIsRefused(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.store.Refuse = "api"
		for range 5 {
			for _, ill := range []string{"api ingest", "api"} {
				s.ill = ill
				if err := s.monitor.cycle(t.Context()); err == nil {
					t.Error("no error")
				}
				pass(time.Minute)
			}
		}
		if untold := s.monitor.alerts.judge.Untold; len(s.store.messages) > 0 || len(untold) != 1 {
			t.Errorf("%v stand, %v wait", s.store.messages, untold)
		}
		s.store.Refuse = ""
		s.check("api")
		if untold := s.monitor.alerts.judge.Untold; len(untold) > 0 {
			t.Errorf("%v wait", untold)
		}
	})
}

// With more than one check to close an alert, what opened and healed in an outage is
// told once, though the database has it only later.
func TestAnOpeningThatTheDatabaseLacksIsKept(t *testing.T) {
	playAfter(t, alertsAfter{1, 3}, func(t *testing.T, s *stage) {
		s.check("")
		s.outage("api", "api")
		s.check("")
		s.check("")
		if untold := s.monitor.alerts.judge.Untold; len(untold) != 2 {
			t.Errorf("%v", untold)
		}
		s.check("")
		s.check("")
		s.check("")
		if untold := s.monitor.alerts.judge.Untold; len(untold) != 0 || len(s.store.messages) != 0 {
			t.Errorf("%v, %v", untold, s.store.messages)
		}
	})
}

// While the database was away another replica has taken over. It tells of its own; what
// this one has told is over.
func TestALeaderThatIsSupersededTellsThatItsAlertsAreOver(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.check("ingest")
		s.outage("api ingest", "api ingest")
		s.wantHeard("ingest 0", "api 1", "postgres 1")
		for range 2 {
			s.superseded()
		}
		s.wantHeard("ingest 0", "api 1", "postgres 1", "api 1-2", "postgres 1-2")
		s.want("", "ingest 0")

		// It leads again, hours later: its alerts stand in the past, where there was none.
		pass(5 * time.Hour)
		if _, err := s.lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.store.past = append(s.store.past, incident{Alert: notify.Alert{Service: "postgres", Opened: s.began, Closed: s.began.Add(10 * time.Minute)}})
		s.check("")
		s.want("postgres 0-10, api 1-2, ingest 0-303", "")
	})
}

// The other replica had the database, and saw the same service: its alert stays, and is
// the only one.
func TestAnotherReplicaHasOpenedTheAlert(t *testing.T) {
	for name, checked := range map[string]int{"and checked later": 3, "and checked no more": 2} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, s *stage) {
				s.check("")
				s.outage("api", "api")
				s.wantHeard("api 1", "postgres 1")
				minute := func(n int) time.Time { return s.began.Add(time.Duration(n) * time.Minute) }
				api := notify.Alert{Service: "api", Reason: "connection refused", Opened: minute(2)}
				s.store.open["api"], s.store.opened["api"], s.store.messages[api.Key()] = api.Reason, api.Opened, message{Alert: api}
				s.store.streaks["api"] = streak{Since: minute(2), Checks: 1, CheckedAt: minute(checked)}
				postgres := "1-3"
				if name == "and checked later" {
					postgres = "1-2" // its last check
					s.superseded()
				}
				if _, err := s.lease.TryAcquire(t.Context()); err != nil {
					t.Fatal(err)
				}
				s.check("api")
				s.want("api 1-2, postgres "+postgres, "api 2")
				s.check("")
				s.want("api 1-2, postgres "+postgres+", api 2-4", "")
				slices.Sort(s.heard)
				s.wantHeard("api 1", "api 1-2", "api 2", "api 2-4", "postgres 1", "postgres "+postgres)
			})
		})
	}
}

// What it has told then is told, also for the process after it.
func TestAStandbyTellsOnce(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		buffer, _, err := spool.Open(t.TempDir(), 10)
		if err != nil {
			t.Fatal(err)
		}
		defer buffer.Close()
		s.buffer = buffer
		s.replace()
		s.check("")
		s.outage("api")
		s.heard, s.deaf = nil, true
		s.superseded()
		s.replace()
		s.superseded()
		s.deaf = false
		s.superseded()
		s.wantHeard("api 1", "postgres 1", "api 1-1", "postgres 1-1")
		s.heard = nil
		s.superseded()
		s.replace()
		s.superseded()
		s.wantHeard()
	})
}

// A process that comes back hours later, as a standby, ends what it left at its last check.
func TestWhatAnEarlierProcessLeftEndsAtItsLastCheck(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		buffer, _, err := spool.Open(t.TempDir(), 10)
		if err != nil {
			t.Fatal(err)
		}
		defer buffer.Close()
		s.buffer = buffer
		s.replace()
		s.check("")
		s.outage("", "")
		pass(5 * time.Hour)
		s.replace()
		s.superseded()
		s.wantHeard("postgres 1", "postgres 1-2")
		if _, err := s.lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.check("")
		s.want("postgres 1-2", "")
	})
}

// The database goes away before a leader's first check, which takes an alert that stands
// for a new one: whoever hears of that one hears that it is over.
func TestAnAlertThatTheDatabaseKnewBetterIsOver(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.check("api")
		s.replace()
		s.outage("api", "api")
		s.wantHeard("api 0", "api 1", "postgres 1")
		s.check("api")
		s.check("")
		s.want("postgres 1-3, api 0-4", "")
		s.wantHeard("api 0", "api 1", "postgres 1", "postgres 1-3", "api 1-2", "api 0-4")
	})
}

// What was due in an earlier term has been told by another leader since.
func TestWhatWasDueInAnEarlierTermIsForgotten(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.deaf = true
		s.check("api")
		s.superseded()
		pass(5 * time.Hour)
		if _, err := s.lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.deaf = false
		s.outage("api")
		s.wantHeard("postgres 301")
	})
}

// While the database is away, the alert of a service's earlier name ends once.
func TestTheAlertOfAnEarlierNameEndsOnce(t *testing.T) {
	j := newJudge(config.Config{AlertAfterFailures: 1, AlertAfterSuccesses: 1, HealthInterval: time.Minute}, record{})
	j.refresh([]incident{{Alert: notify.Alert{Service: "delivery_worker", Opened: time.Unix(1, 0)}}})
	o := observation("delivery", probe.Reading{Status: probe.Healthy})
	o.Former = "delivery_worker"
	for n := range 5 {
		at := time.Unix(int64(60*n+60), 0)
		j.count(at, []probe.Observation{o})
		j.decide(at, []probe.Observation{o})
	}
	if over := j.over(); len(over) != 1 || !over[0].Closed.Equal(time.Unix(60, 0)) {
		t.Errorf("%v", over)
	}
}

// A standby saw the outage alone, since the leader is gone.
func TestAnOutageThatAStandbyHasNoticed(t *testing.T) {
	minute := func(s *stage, n int) time.Time { return s.began.Add(time.Duration(n) * time.Minute) }
	playAfter(t, alertsAfter{2, 1}, func(t *testing.T, s *stage) {
		pass(10 * time.Minute)
		s.monitor.alerts.judge.noticeOutage(minute(s, 3).Add(999), minute(s, 7))
		s.check("")
		s.want("postgres 3-7", "")
		if !s.store.past[0].Opened.Equal(minute(s, 3)) {
			t.Errorf("%s, which the table does not keep", s.store.past[0].Opened)
		}
		s.wantHeard("postgres 3", "postgres 3-7")
	})
	playAfter(t, alertsAfter{2, 1}, func(t *testing.T, s *stage) {
		pass(10 * time.Minute)
		s.monitor.alerts.judge.noticeOutage(minute(s, 3), minute(s, 4)) // which two checks might not have seen
		s.check("")
		s.monitor.alerts.judge.noticeOutage(minute(s, 3), minute(s, 8))
		s.superseded() // another replica leads, and has seen it, or there was none
		if _, err := s.lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.check("")
		s.want("", "")
		s.store.windows = maintenance.Windows{{Starts: minute(s, 2), Ends: minute(s, 4)}}
		s.monitor.alerts.judge.noticeOutage(minute(s, 3), minute(s, 8)) // planned
		if _, err := s.lease.TryAcquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.check("")
		s.want("", "")
	})
}

// Status counts on spans in which services were watched: an outage is one, a stop is not.
func TestTheWatchIsNotedWithoutGaps(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.check("")
		s.outage("", "", "", "", "")
		s.check("")
		pass(10 * time.Minute)
		s.outage("")
		s.check("")
		var spans []string
		for _, w := range s.store.watched {
			spans = append(spans, fmt.Sprintf("%d-%d", s.minute(w[0]), s.minute(w[1])))
		}
		if diff := cmp.Diff([]string{"0-0", "1-6", "17-18"}, spans); diff != "" {
			t.Error(diff)
		}
	})
}

// What was ill while the table refused its alert was not available.
func TestWhatTheTableRefusesIsNotWatched(t *testing.T) {
	play(t, func(t *testing.T, s *stage) {
		s.check("")
		s.store.Refuse, s.ill = "api", "api"
		for range 3 {
			if err := s.monitor.cycle(t.Context()); err == nil {
				t.Error("no error")
			}
			pass(time.Minute)
		}
		if len(s.store.watched) != 1 {
			t.Errorf("%v", s.store.watched)
		}
		s.store.Refuse = ""
		s.check("api")
		if w := s.store.watched; len(w) != 2 || s.minute(w[1][0]) != 1 || s.minute(w[1][1]) != 4 {
			t.Errorf("%v", w)
		}
	})
}

// A note that another version wrote costs what it has, and never a start.
func TestANoteOfAnotherVersion(t *testing.T) {
	for name, note := range map[string]any{
		"another type":       map[string]any{"Streaks": map[string]any{"api": map[string]any{"Checks": 1}, "ingest": nil}, "Ended": "none"},
		"a streak of nobody": map[string]any{"Streaks": map[string]any{"api": nil}},
	} {
		play(t, func(t *testing.T, s *stage) {
			buffer, _, err := spool.Open(t.TempDir(), 10)
			if err != nil {
				t.Fatal(err)
			}
			defer buffer.Close()
			if err := buffer.Keep(note); err != nil {
				t.Fatal(err)
			}
			s.buffer = buffer
			s.replace()
			if left := s.monitor.alerts.judge.Streaks; len(left) != 0 {
				t.Errorf("%s: %v", name, left)
			}
			s.superseded()
			s.check("")
		})
	}
}

// An alert that the database had comes back from the spool as it was.
func TestAnAlertWithoutDetailsInTheSpool(t *testing.T) {
	text, err := json.Marshal(incident{})
	var back incident
	if err = errors.Join(err, json.Unmarshal(text, &back)); err != nil || len(back.Details) != 0 {
		t.Errorf("%s, %v", back.Details, err)
	}
}

func TestAnAlertsDetails(t *testing.T) {
	o := observation("evaluator", probe.Reading{Status: probe.Degraded, HTTPStatus: 503, Latency: 12 * time.Millisecond, Counters: map[string]float64{"x": 1}, Err: "2 of 3"})
	o.Instances = []probe.InstanceReading{{Address: "a:1", Reading: probe.Reading{Status: probe.Healthy}}, {Address: "b:1", Reading: probe.Reading{Status: probe.Down, Err: "no"}}}
	since := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.FixedZone("", 3600))
	want := `{"service":"evaluator","kind":"system_health","reason":"2 of 3","since":"2026-01-02T02:04:05.678901Z","status":"degraded","latency_ms":12,"http_status":503,"instances":2,"unhealthy_instances":{"b:1":"no"}}`
	if got := string(newIncident(o, since, false).Details); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"ops_worker/internal/logtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var opened = time.Date(2026, 11, 26, 3, 4, 5, 123456789, time.UTC)

func down(service string) Alert {
	return Alert{Service: service, Status: "down", Reason: "connection refused", Opened: opened}
}

func openings(services ...string) (due []Event) {
	for _, service := range services {
		due = append(due, Event{Alert: down(service)})
	}
	return due
}

func closing(service string, after time.Duration) Event {
	a := down(service)
	a.Closed = a.Opened.Add(after)
	return Event{a, true}
}

// fakeReceiver is a transport that answers as a test says, and notes what came when.
type fakeReceiver struct {
	mu     sync.Mutex
	answer func(body string) (status int, err error)
	came   []request
}

type request struct {
	at   time.Time
	body string
}

var (
	errNetwork = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	working    = func(string) (int, error) { return http.StatusOK, nil }
	refusing   = func(string) (int, error) { return 0, errNetwork }
	failing    = func(string) (int, error) { return http.StatusInternalServerError, nil }
)

func (f *fakeReceiver) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	f.mu.Lock()
	f.came = append(f.came, request{time.Now(), string(body)})
	answer := f.answer
	f.mu.Unlock()
	status, err := answer(string(body))
	if status == 0 && err == nil { // it hangs
		<-r.Context().Done()
		err = r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(bytes.NewReader(nil))}, nil
}

func (f *fakeReceiver) answers(answer func(string) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// take returns the requests that came since the last call.
func (f *fakeReceiver) take() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	came := f.came
	f.came = nil
	return came
}

// events are what came, such as "opened ingest".
func (f *fakeReceiver) events(t *testing.T) (events []string) {
	t.Helper()
	for _, r := range f.take() {
		var m struct {
			message
			Alerts []message
		}
		if err := json.Unmarshal([]byte(r.body), &m); err != nil {
			t.Fatalf("%s: %v", r.body, err)
		}
		name := m.Event + " " + m.Service
		for _, a := range m.Alerts {
			name += a.Service + " "
		}
		events = append(events, strings.TrimSpace(name))
	}
	return events
}

// after lets time pass in a synctest bubble, until everything rests.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// bubble runs a test of a webhook that sends to a fake receiver.
func bubble(t *testing.T, format Format, test func(*testing.T, *Webhook, *fakeReceiver, *logtest.Log)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake, log := &fakeReceiver{answer: working}, &logtest.Log{}
		w := newWebhook(Options{URL: "https://example.org/hook", Format: format, Source: "east", CheckInterval: time.Minute, Log: log.Logger()}, fake)
		var running sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		running.Go(func() { w.Run(ctx) })
		test(t, w, fake, log)
		stop()
		running.Wait()
	})
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	a := down("ingest")
	equal(t, "key", a.Key(), "system-health:ingest@2026-11-26T03:04:05.123456Z")
	a.Opened = time.Date(2026, 11, 26, 4, 0, 0, 0, time.FixedZone("CET", 3600))
	equal(t, "key", a.Key(), "system-health:ingest@2026-11-26T03:00:00.000000Z")
}

// An event is sent once, and counts as told until it is no longer due.
func TestAnEventIsToldOnce(t *testing.T) {
	bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, log *logtest.Log) {
		due := []Event{openings("ingest")[0], closing("ingest", time.Minute)}
		equal(t, "told at once", len(w.Tell(time.Now(), due, nil)), 0)
		after(time.Second)
		equal(t, "sent", fake.events(t), []string{"opened ingest", "closed ingest"})
		for range 3 { // the caller could not write it down
			equal(t, "told", w.Tell(time.Now(), due, nil), due)
			after(time.Minute)
		}
		equal(t, "sent again", len(fake.take()), 0)
		equal(t, "told when nothing is due", len(w.Tell(time.Now(), nil, nil)), 0)
		lines := log.Lines(t, "alert sent")
		if len(lines) != 2 || lines[0]["monitored"] != "ingest" || lines[1]["event"] != "closed" || lines[0]["key"] != due[0].Key() || lines[0]["level"] != "info" {
			t.Errorf("log: %s", log)
		}
	})
}

func TestThreeNewOpeningsAreOneMessage(t *testing.T) {
	bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, _ *logtest.Log) {
		fake.answers(refusing)
		due := append(openings("a", "b", "c"), closing("b", time.Minute))
		w.Tell(time.Now(), due, nil)
		after(time.Second / 2)
		due = append(due, openings("d", "e")...) // later, and only two
		w.Tell(time.Now(), due, nil)
		after(time.Second / 2)
		first := fake.take()
		fake.answers(working)
		after(time.Minute)
		again := fake.take()
		equal(t, "the same bytes", again[0].body, first[0].body)
		fake.came = again
		equal(t, "sent", fake.events(t), []string{"opened a b c", "closed b", "opened d", "opened e"})
		equal(t, "told", w.Tell(time.Now(), due, nil), due)
	})
}

// A message that the receiver refuses keeps back only what comes later of the same alert.
func TestARefusedMessageDoesNotKeepBackOthers(t *testing.T) {
	bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, _ *logtest.Log) {
		due := []Event{openings("bad")[0], closing("bad", time.Minute), openings("good")[0]}
		fake.answers(func(body string) (int, error) {
			if strings.Contains(body, `"service":"bad"`) {
				return http.StatusBadRequest, nil
			}
			return http.StatusOK, nil
		})
		w.Tell(time.Now(), due, nil)
		after(time.Second / 2)
		equal(t, "sent", fake.events(t), []string{"opened bad", "opened good"})
		equal(t, "told", w.Tell(time.Now(), due, nil), due[2:])
		fake.answers(working)
		after(time.Minute)
		equal(t, "sent", fake.events(t), []string{"opened bad", "closed bad"})
		equal(t, "told", w.Tell(time.Now(), due, nil), due)
	})
}

// Where nobody answers, one message a round is tried: at 1 s, and in the end once a minute.
func TestNoAnswerEndsTheRound(t *testing.T) {
	for name, answer := range map[string]func(string) (int, error){"refuses": refusing, "hangs": func(string) (int, error) { return 0, nil }} {
		t.Run(name, func(t *testing.T) {
			bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, log *logtest.Log) {
				fake.answers(answer)
				due := openings("a", "b")
				for range 20 {
					w.Tell(time.Now(), due, nil)
					after(time.Minute)
				}
				came := fake.take()
				for i, r := range came {
					if !strings.Contains(r.body, `"service":"a"`) {
						t.Fatalf("tried: %s", r.body)
					}
					if i == 0 {
						continue
					}
					if apart := r.at.Sub(came[i-1].at); apart < time.Second || apart > time.Minute+requestTimeout {
						t.Errorf("attempt %d came %s after the one before", i, apart)
					}
				}
				if n := len(came); n < 20 || n > 70 {
					t.Errorf("%d attempts in 20 minutes", n)
				}
				fake.answers(working)
				after(3 * time.Minute)
				equal(t, "sent", fake.events(t), []string{"opened a", "opened b"})
				equal(t, "told", w.Tell(time.Now(), due, nil), due)
				if n := len(log.Lines(t, "alerts cannot be sent")); n < 10 || n > 21 { // once a minute
					t.Errorf("%d lines say that sending fails: %s", n, log)
				}
				equal(t, "lines that say that it works", len(log.Lines(t, "alerts are sent again")), 1)
				fake.answers(refusing)
				w.Tell(time.Now(), openings("c"), nil)
				after(10 * time.Second)
				if n := len(fake.take()); n < 3 {
					t.Errorf("%d attempts in 10 s: the back-off starts anew after a success", n)
				}
			})
		})
	}
}

// News does not wait until the back-off of older messages is over.
func TestNewsIsTriedAtOnce(t *testing.T) {
	bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, _ *logtest.Log) {
		fake.answers(failing)
		w.Tell(time.Now(), openings("a"), nil)
		after(30 * time.Minute)
		fake.take()
		w.Tell(time.Now(), openings("a"), nil)
		synctest.Wait()
		equal(t, "sent without news", len(fake.take()), 0)
		w.Tell(time.Now(), openings("a", "b"), nil)
		synctest.Wait()
		equal(t, "sent", fake.events(t), []string{"opened a", "opened b"})
	})
}

func TestAnEventIsGivenUpAfterAnHour(t *testing.T) {
	for name, answer := range map[string]func(string) (int, error){"no answer": refusing, "refused": failing} {
		t.Run(name, func(t *testing.T) {
			bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, log *logtest.Log) {
				fake.answers(answer)
				due := openings("a", "b")
				w.Tell(time.Now(), due, nil)
				after(59 * time.Minute)
				equal(t, "told before", len(w.Tell(time.Now(), due, nil)), 0)
				after(2*time.Minute + time.Second)
				equal(t, "told", w.Tell(time.Now(), due, nil), due)
				lines := log.Lines(t, "alert not sent for an hour, nobody is told of it")
				if len(lines) != 2 || lines[0]["level"] != "error" || lines[0]["monitored"] != "a" || lines[1]["key"] != due[1].Key() {
					t.Errorf("log: %s", log)
				}
				fake.take()
				after(time.Hour)
				equal(t, "sent afterwards", len(fake.take()), 0)
			})
		})
	}
}

// What is no longer due is forgotten, and told again if it comes back.
func TestWhatIsNotDueIsForgotten(t *testing.T) {
	bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, log *logtest.Log) {
		w.Tell(time.Now(), openings("a"), nil)
		synctest.Wait()
		w.Tell(time.Now(), nil, nil)
		w.Tell(time.Now(), openings("a"), nil)
		synctest.Wait()
		equal(t, "sent", fake.events(t), []string{"opened a", "opened a"})
		fake.answers(refusing)
		w.Tell(time.Now(), openings("b"), nil)
		synctest.Wait()
		w.Tell(time.Now(), nil, nil)
		fake.take()
		after(time.Hour)
		equal(t, "sent when nothing is due", len(fake.take()), 0)
		equal(t, "held", len(w.held), 0)
		if strings.Contains(log.String(), "sent again") {
			t.Errorf("nothing was sent since it failed: %s", log)
		}
	})
}

// Alertmanager gets everything that fires at each check, and the newest only.
func TestAlertmanagerGetsWhatFires(t *testing.T) {
	bubble(t, Alertmanager, func(t *testing.T, w *Webhook, fake *fakeReceiver, _ *logtest.Log) {
		due := append(openings("ingest"), closing("api", time.Minute))
		equal(t, "told", w.Tell(opened, due, []Alert{down("ingest")}), due)
		synctest.Wait()
		came := fake.take()
		equal(t, "body", came[0].body, `[{"labels":{"alertname":"SystemHealth","service":"ingest","severity":"critical","source":"east"},`+
			`"annotations":{"key":"system-health:ingest@2026-11-26T03:04:05.123456Z","reason":"connection refused",`+
			`"summary":"Service unhealthy: ingest (connection refused)"},`+
			`"startsAt":"2026-11-26T03:04:05.123456Z","endsAt":"2026-11-26T03:08:05.123456789Z"}]`)
		after(time.Minute)
		equal(t, "sent without a check", len(fake.take()), 0)

		fake.answers(failing)
		w.Tell(time.Now(), nil, []Alert{down("ingest")})
		after(20 * time.Second)
		if n := len(fake.take()); n < 3 {
			t.Errorf("%d attempts", n)
		}
		fake.answers(working)
		w.Tell(time.Now(), nil, []Alert{down("ingest"), down("api")})
		synctest.Wait()
		after(time.Minute)
		came = fake.take()
		if len(came) != 1 || !strings.Contains(came[0].body, `"service":"api"`) {
			t.Errorf("the newest is %v", came)
		}
		w.Tell(time.Now(), nil, nil)
		after(time.Minute)
		equal(t, "sent when nothing fires", len(fake.take()), 0)
	})
}

// A check during a POST is not lost with it.
func TestACheckWhileAlertmanagerAnswers(t *testing.T) {
	bubble(t, Alertmanager, func(t *testing.T, w *Webhook, fake *fakeReceiver, _ *logtest.Log) {
		fake.answers(func(body string) (int, error) {
			if strings.Contains(body, `"service":"ingest"`) {
				w.Tell(time.Now(), nil, []Alert{down("api")})
			}
			return http.StatusOK, nil
		})
		w.Tell(time.Now(), nil, []Alert{down("ingest")})
		after(time.Second)
		if came := fake.take(); len(came) != 2 || !strings.Contains(came[1].body, `"service":"api"`) {
			t.Errorf("sent: %v", came)
		}
	})
}

// A replica that checks no more must not resolve what another one keeps firing.
func TestAlertmanagerGetsNothingThatHasExpired(t *testing.T) {
	bubble(t, Alertmanager, func(t *testing.T, w *Webhook, fake *fakeReceiver, _ *logtest.Log) {
		fake.answers(refusing)
		began := time.Now()
		w.Tell(began, nil, []Alert{down("ingest")})
		after(time.Hour)
		came := fake.take()
		if last := came[len(came)-1].at.Sub(began); last < time.Minute || last >= 4*time.Minute {
			t.Errorf("the last attempt came after %s", last)
		}
	})
}

// A stop does not wait for an answer, and is no failure.
func TestAStopWaitsForNoAnswer(t *testing.T) {
	bubble(t, JSON, func(t *testing.T, w *Webhook, fake *fakeReceiver, log *logtest.Log) {
		fake.answers(func(string) (int, error) { return 0, nil })
		w.Tell(time.Now(), openings("a"), nil)
		synctest.Wait()
		began := time.Now()
		t.Cleanup(func() {
			if took := time.Since(began); took != 0 || log.String() != "" {
				t.Errorf("the stop took %s; log: %s", took, log)
			}
		})
	})
}

func TestNobodyIsTold(t *testing.T) {
	t.Parallel()
	var w *Webhook
	due := openings("a")
	equal(t, "told", w.Tell(time.Now(), due, nil), due)
	w.Run(t.Context())
	var h *Heartbeat
	h.Stored()
	h.Run(t.Context())
}

func TestOfAnErrorNothingSecretIsShown(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		errors.New(`malformed HTTP response "POST /s3cret"`), fmt.Errorf("invalid proxy address %q", "http://u:s3cret@proxy"),
	} {
		if text := withoutSecrets(err).Error(); strings.Contains(text, "s3cret") {
			t.Error(text)
		}
	}
	if err := withoutSecrets(fmt.Errorf("x: %w", errNetwork)); !slices.Contains([]string{"dial tcp: connection refused"}, err.Error()) {
		t.Error(err)
	}
}

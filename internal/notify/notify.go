// Package notify tells somebody of system alerts: a webhook or an Alertmanager of each
// alert, and a dead man's switch that the worker stores.
package notify

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/faultlog"
)

const (
	// giveUpAfter is how long an event may fail after its first attempt.
	giveUpAfter = time.Hour
	// maxDue is how many due events are held.
	maxDue = 1000
	// smallestGroup is how many new openings are one message: an outage of everything is
	// one piece of news.
	smallestGroup = 3
	// idleInterval is how often Run turns while nothing is due, so that the fault log
	// can say that sending works again.
	idleInterval = time.Minute
)

// Alert is a system alert as somebody is told of it.
type Alert struct {
	Service string
	Status  string // of the check that opened it: degraded, down or unknown
	Reason  string // in a few words, such as "connection refused"
	Opened  time.Time
	Closed  time.Time // zero while it is open
	// DatabaseAway says that the worker could not reach the database when it found this.
	DatabaseAway bool
}

// fingerprintPrefix begins the fingerprint of a system alert; the service follows.
const fingerprintPrefix = "system-health:"

// Fingerprint is fleet_alert.fingerprint.
func (a Alert) Fingerprint() string { return fingerprintPrefix + a.Service }

// ServiceOf is the service of a fingerprint.
func ServiceOf(fingerprint string) string { return strings.TrimPrefix(fingerprint, fingerprintPrefix) }

// Summary is fleet_alert.summary.
func (a Alert) Summary() string {
	return fmt.Sprintf("Service unhealthy: %s (%s)", a.Service, a.Reason)
}

// Key names an alert by its fingerprint and when it opened. A receiver may get a message
// twice, and knows the second one by the same key and event.
func (a Alert) Key() string {
	return a.Fingerprint() + "@" + a.Opened.UTC().Format("2006-01-02T15:04:05.000000Z")
}

// Event is the opening or the closing of an alert.
type Event struct {
	Alert
	Closing bool
}

func (e Event) name() string {
	if e.Closing {
		return "closed"
	}
	return "opened"
}

// Format is what the receiver understands.
type Format string

// The formats: an object for each event, Slack's incoming webhooks, Alertmanager's API v2.
const (
	JSON         Format = "json"
	Slack        Format = "slack"
	Alertmanager Format = "alertmanager"
)

// Options say who is told, and how.
type Options struct {
	URL           string
	Format        Format
	CheckInterval time.Duration  // how often Tell is called
	CAs           *x509.CertPool // nil: the system's
	Log           zerolog.Logger
}

// Webhook sends alerts to a URL. Through a nil Webhook nobody is told.
type Webhook struct {
	options  Options
	receiver receiver
	wake     chan struct{}

	mu      sync.Mutex
	held    []*delivery // one for each due event, in their order
	firing  *snapshot   // what Alertmanager has yet to get, or nil
	tells   int
	crowded faultlog.Log
}

// delivery is how far the telling of an event is.
type delivery struct {
	Event
	tell  int       // the Tell in which it was new
	round int       // the newest that tried it
	first time.Time // of the attempts, zero before it
	done  bool
}

// snapshot is everything that fires at a check. Once expired it must not be sent: it
// would resolve what another replica keeps firing.
type snapshot struct {
	body    []byte
	expires time.Time
}

// New prepares a webhook; Run makes it send.
func New(o Options) *Webhook { return newWebhook(o, newTransport(o.CAs)) }

func newWebhook(o Options, transport http.RoundTripper) *Webhook {
	to := newReceiver("ALERT_WEBHOOK_URL", o.URL, transport)
	if o.Format == Alertmanager {
		to.url = alertsURL(*to.url)
	}
	return &Webhook{options: o, receiver: to, wake: make(chan struct{}, 1)}
}

// Tell replaces what is due: due are the events of which nobody has been told, oldest
// first, firing the alerts that are open at now. It returns those of due of which
// somebody has been told since. It never waits.
func (w *Webhook) Tell(now time.Time, due []Event, firing []Alert) (told []Event) {
	if w == nil {
		return due
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.options.Format == Alertmanager {
		w.hold(now, firing)
		return due
	}
	tooMany := max(0, len(due)-maxDue)
	var err error
	if tooMany > 0 {
		err = fmt.Errorf("%d events are due, at most %d are held", len(due), maxDue)
	}
	w.crowded.Observe(w.options.Log, err, "too many alerts are due, nobody is told of the oldest", "all due alerts are held again")
	return append(slices.Clone(due[:tooMany]), w.replace(due[tooMany:])...)
}

// hold keeps what fires for Alertmanager, which takes it for resolved after four
// intervals without news.
func (w *Webhook) hold(now time.Time, firing []Alert) {
	w.firing = nil
	if len(firing) > 0 {
		valid := 4 * w.options.CheckInterval
		w.firing = &snapshot{alertmanagerBody(firing, now.Add(valid)), time.Now().Add(valid)}
		wakeUp(w.wake)
	}
}

// replace holds the events of due and no others, and returns those that are done.
func (w *Webhook) replace(due []Event) (done []Event) {
	id := func(e Event) string { return e.name() + " " + e.Key() }
	before := map[string]*delivery{}
	for _, d := range w.held {
		before[id(d.Event)] = d
	}
	w.tells++
	w.held = make([]*delivery, len(due))
	for i, event := range due {
		d := before[id(event)]
		if d == nil {
			d = &delivery{Event: event, tell: w.tells}
			wakeUp(w.wake)
		}
		if d.done {
			done = append(done, event)
		}
		w.held[i] = d
	}
	return done
}

// Run sends what is due until ctx is done.
func (w *Webhook) Run(ctx context.Context) {
	if w == nil {
		return
	}
	var faults faultlog.Log
	retry, failing := newRetry(), false
	for round := 1; ; round++ {
		attempts, err := w.send(ctx, round)
		if ctx.Err() != nil {
			return
		}
		if attempts > 0 {
			failing = err != nil
		}
		if attempts > 0 || !failing {
			faults.Observe(w.options.Log, err, "alerts cannot be sent", "alerts are sent again")
		}
		pause := idleInterval
		if err != nil {
			pause = retry.NextBackOff()
		} else {
			retry.Reset()
		}
		awaitWake(ctx, w.wake, pause)
	}
}

// send tries each message once. A refused one says nothing of the others; without an
// answer they would fail too.
func (w *Webhook) send(ctx context.Context, round int) (attempts int, failure error) {
	if w.options.Format == Alertmanager {
		return w.sendFiring(ctx)
	}
	for {
		group := w.next(round)
		if len(group) == 0 {
			return attempts, failure
		}
		began := time.Now()
		err := w.receiver.request(ctx, http.MethodPost, w.body(group))
		if err != nil && ctx.Err() != nil {
			return attempts, err
		}
		attempts++
		w.finish(group, began, err)
		if err != nil {
			failure = err
			if !refused(err) {
				return attempts, failure
			}
		}
	}
}

// next is the oldest message that the round has not tried. An event waits for an older
// one of its key.
func (w *Webhook) next(round int) (group []*delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	forgetWake(w.wake) // all news is seen now
	waiting := map[string]bool{}
	for _, d := range w.held {
		if key := d.Key(); !d.done && !waiting[key] {
			waiting[key] = true
			if d.round != round {
				group = w.groupOf(d)
				break
			}
		}
	}
	for _, d := range group {
		d.round = round
	}
	return group
}

// groupOf are the events that are told in one message with d.
func (w *Webhook) groupOf(d *delivery) []*delivery {
	var group []*delivery
	for _, other := range w.held {
		if !d.Closing && !other.Closing && !other.done && other.tell == d.tell {
			group = append(group, other)
		}
	}
	if len(group) < smallestGroup {
		return []*delivery{d}
	}
	return group
}

// finish notes how an attempt ended, and gives up what has failed for too long. Without
// an answer everything has failed.
func (w *Webhook) finish(group []*delivery, began time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !refused(err) {
		group = w.held
	}
	for _, d := range group {
		if d.done {
			continue
		}
		if d.first.IsZero() {
			d.first = began
		}
		if err != nil && time.Since(d.first) < giveUpAfter {
			continue
		}
		d.done = true
		log := w.options.Log.With().Str("monitored", d.Service).Str("event", d.name()).Str("key", d.Key()).Logger()
		if err != nil {
			log.Error().Err(err).Msg("alert not sent for an hour, nobody is told of it")
		} else {
			log.Info().Msg("alert sent")
		}
	}
}

func (w *Webhook) sendFiring(ctx context.Context) (attempts int, err error) {
	w.mu.Lock()
	newest := w.firing
	forgetWake(w.wake)
	w.mu.Unlock()
	if newest == nil || !time.Now().Before(newest.expires) {
		return 0, nil
	}
	err = w.receiver.request(ctx, http.MethodPost, newest.body)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.firing == newest {
		w.firing = nil
	}
	return 1, err
}

func wakeUp(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

func forgetWake(wake <-chan struct{}) {
	select {
	case <-wake:
	default:
	}
}

// awaitWake returns after a wake-up, after d, or as soon as ctx is done.
func awaitWake(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	select {
	case <-ctx.Done():
	case <-wake:
	}
}

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
	// giveUpAfter is how long a message is tried.
	giveUpAfter = time.Hour
	// smallestGroup is how many new openings are one message: an outage of everything is
	// one piece of news.
	smallestGroup = 3
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

// Same reports whether two alerts have one key, which it does not make.
func (a Alert) Same(other Alert) bool {
	return a.Service == other.Service && a.since().Equal(other.since())
}

// Event is the opening or the closing of an alert.
type Event struct {
	Alert
	Closing bool
}

// Same reports whether two events are one, whatever their words.
func (e Event) Same(other Event) bool { return e.Closing == other.Closing && e.Alert.Same(other.Alert) }

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
	Source        string         // which of several workers tells
	CheckInterval time.Duration  // how often Tell is called
	CAs           *x509.CertPool // nil: the system's
	Log           zerolog.Logger
}

// Webhook sends alerts to a URL. Through a nil Webhook nobody is told.
type Webhook struct {
	options  Options
	receiver receiver
	wake     chan struct{}

	mu     sync.Mutex
	held   []*delivery // one for each message that is due, in their order
	firing *snapshot   // what Alertmanager has yet to get, or nil
}

// delivery is how far the telling of a message is.
type delivery struct {
	events []Event // one, or the openings of a group
	since  time.Time
	done   bool
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
	if w.options.Format != Alertmanager {
		return w.replace(due)
	}
	w.firing = nil
	if len(firing) > 0 {
		valid := 4 * w.options.CheckInterval // without news, Alertmanager then takes it for resolved
		w.firing = &snapshot{w.alertmanagerBody(firing, now.Add(valid)), time.Now().Add(valid)}
		wakeUp(w.wake)
	}
	return due
}

// replace holds the events of due and no others, and returns those that are done. As many
// new openings as a group are one message.
func (w *Webhook) replace(due []Event) (done []Event) {
	news := slices.Clone(due)
	for _, d := range w.held {
		d.events = slices.DeleteFunc(d.events, func(e Event) bool { return !slices.ContainsFunc(due, e.Same) })
		news = slices.DeleteFunc(news, func(e Event) bool { return slices.ContainsFunc(d.events, e.Same) })
		if d.done {
			done = append(done, d.events...)
		}
	}
	w.held = slices.DeleteFunc(w.held, func(d *delivery) bool { return len(d.events) == 0 })
	group := slices.DeleteFunc(slices.Clone(news), func(e Event) bool { return e.Closing })
	if len(group) >= smallestGroup {
		w.held = append(w.held, &delivery{events: group, since: time.Now()})
		news = slices.DeleteFunc(news, func(e Event) bool { return !e.Closing })
	}
	for _, e := range news {
		w.held = append(w.held, &delivery{events: []Event{e}, since: time.Now()})
	}
	if len(news)+len(group) > 0 {
		wakeUp(w.wake)
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
	for {
		tried, err := w.send(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := time.Minute // and then the log may say that sending works again
		if err == nil {
			retry.Reset()
		} else {
			pause = retry.NextBackOff()
		}
		if tried {
			failing = err != nil
		}
		if tried || !failing {
			faults.Observe(w.options.Log, err, "alerts cannot be sent", "alerts are sent again")
		}
		awaitWake(ctx, w.wake, pause)
	}
}

// send tries each message once. A refused one keeps back what comes later of its alert,
// and says nothing of the others; without an answer they would fail too.
func (w *Webhook) send(ctx context.Context) (tried bool, failure error) {
	if w.options.Format == Alertmanager {
		return w.sendFiring(ctx)
	}
	failed := map[string]bool{} // keys
	for _, d := range w.pending() {
		if (failure != nil && !refused(failure)) || failed[d.events[0].Key()] {
			w.finish(d, failure)
			continue
		}
		err := w.receiver.request(ctx, http.MethodPost, w.body(d.events))
		if err != nil && ctx.Err() != nil {
			return tried, err
		}
		tried = true
		w.finish(d, err)
		if err != nil {
			failure = err
			for _, e := range d.events {
				failed[e.Key()] = true
			}
		}
	}
	return tried, failure
}

// pending is what is sent of a delivery, which may lose events meanwhile.
type pending struct {
	*delivery
	events []Event
}

func (w *Webhook) pending() (list []pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	forgetWake(w.wake)
	for _, d := range w.held {
		if !d.done {
			list = append(list, pending{d, slices.Clone(d.events)})
		}
	}
	return list
}

// finish notes that a message is sent, or gives it up if it has failed for too long.
func (w *Webhook) finish(sent pending, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && time.Since(sent.since) < giveUpAfter {
		return
	}
	sent.done = true
	for _, e := range sent.events {
		log := w.options.Log.With().Str("monitored", e.Service).Str("event", e.name()).Str("key", e.Key()).Logger()
		if err != nil {
			log.Error().Err(err).Msg("alert not sent for an hour, nobody is told of it")
		} else {
			log.Info().Msg("alert sent")
		}
	}
}

func (w *Webhook) sendFiring(ctx context.Context) (tried bool, err error) {
	w.mu.Lock()
	newest := w.firing
	forgetWake(w.wake)
	w.mu.Unlock()
	if newest == nil || !time.Now().Before(newest.expires) {
		return false, nil
	}
	err = w.receiver.request(ctx, http.MethodPost, newest.body)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.firing == newest {
		w.firing = nil
	}
	return true, err
}

func wakeUp(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// forgetWake is called where the news is read, under the lock under which it was made: it
// must not be tried a second time at once.
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

package collectors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"
)

// Token is what a write is fenced by: the store refuses one that is not the
// lease's current token.
type Token struct {
	Holder string
	Epoch  int64
}

// ErrLeaseLost is a write or a renewal that the lease refused: another replica
// collects, or the lease ran out.
var ErrLeaseLost = errors.New("the lease is no longer ours")

// Grant is a lease just taken.
type Grant struct {
	Epoch       int64
	LastCycleAt time.Time // the newest stored cycle, of any replica
	Now         time.Time // the database's clock
}

// LeaseStore keeps the lease. Its errors mean that the database did not answer,
// but for ErrLeaseLost.
type LeaseStore interface {
	// HeldBy is the holder, empty where the lease was handed back, and whether
	// the lease has not yet run out.
	HeldBy(ctx context.Context) (holder string, held bool, err error)
	// Touch fails where the database refuses writes.
	Touch(ctx context.Context) error
	// Acquire takes a lease that is free, expired or holder's own.
	Acquire(ctx context.Context, holder string, ttl time.Duration) (Grant, error)
	// Renew extends an unexpired lease; it returns the database's clock.
	Renew(ctx context.Context, token Token, ttl time.Duration) (time.Time, error)
	Release(ctx context.Context, token Token) error
}

// Bounds of a standby's poll, which decides how fast it takes over.
const maxPoll = time.Second

// Lease makes this process the one that collects, or a standby.
type Lease struct {
	store  LeaseStore
	holder string
	ttl    time.Duration
	log    zerolog.Logger
	beat   func(interval time.Duration)

	clock databaseClock
	nudge chan struct{}

	mu          sync.Mutex
	token       Token
	lastCycleAt time.Time
	renewedAt   time.Time
}

// NewLease prepares a lease for holder, a name that no other process has. beat
// is called at every turn with the longest time to the next one; nil is none.
func NewLease(store LeaseStore, holder string, ttl time.Duration, log zerolog.Logger, beat func(time.Duration)) *Lease {
	if beat == nil {
		beat = func(time.Duration) {}
	}
	return &Lease{store: store, holder: holder, ttl: ttl, log: log, beat: beat, nudge: make(chan struct{}, 1)}
}

// Token is the token of the newest grant.
func (l *Lease) Token() Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

// LastCycleAt is the newest stored cycle as of the newest grant.
func (l *Lease) LastCycleAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastCycleAt
}

// Now is the database's time.
func (l *Lease) Now() time.Time { return l.clock.now() }

// Renewed notes that a store, sent at that instant, has renewed the lease and
// brought back the database's clock, so that the lease need not ask for either.
func (l *Lease) Renewed(now, sent time.Time) {
	received := time.Now()
	l.clock.observe(now, sent, received)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewedAt = sent
}

// untilRenewal is how long the lease may go on before it is renewed: a third of
// its time after the last renewal.
func (l *Lease) untilRenewal() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ttl/3 - time.Since(l.renewedAt)
}

// Check makes the lease look at once whether it is still held: for a store that
// was refused.
func (l *Lease) Check() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// Run takes the lease whenever it can be had and calls lead for as long as it
// is held; lead returns soon after its context is done. Run ends with ctx, with
// the lease handed back.
//
// While the database cannot be asked, a leader goes on leading: nobody else can
// take the lease from that database either, and where only this process is cut
// off, the fence keeps what it collects out until it knows.
func (l *Lease) Run(ctx context.Context, lead func(context.Context)) {
	var asking streak
	retry := newBackOff(maxPoll)
	role := ""
	deferring := &deference{ttl: l.ttl}
	for ctx.Err() == nil {
		l.beat(l.requestTimeout() + retry.MaxInterval)
		holder, err := l.tryAcquire(ctx, deferring)
		if ctx.Err() != nil {
			if holder == l.holder {
				l.release()
			}
			return
		}
		asking.observe(l.log, err, "lease cannot be asked for", "lease can be asked for again")
		switch {
		case err != nil:
			wait(ctx, retry.NextBackOff())
			continue
		case holder == l.holder:
			role = l.lead(ctx, lead)
		case role != holder:
			role = holder
			l.log.Info().Str("role", "standby").Str("leader", holder).Msg("another replica collects")
		}
		retry.Reset()
		wait(ctx, jittered(min(maxPoll, l.ttl/3)))
	}
}

// deference is a standby's towards a leader whose lease ran out in an outage of
// the database: it is the leader that has what was measured meanwhile, and it
// needs a moment to come back. One ttl, from the end of the outage.
type deference struct {
	ttl     time.Duration
	since   time.Time // of the trouble, zero when there is none
	refused bool      // the trouble: it answered, but refused a write
	until   time.Time
}

// trouble notes that the database did not answer, or refused a write.
func (d *deference) trouble(refused bool) {
	if d.since.IsZero() {
		d.since = time.Now()
	}
	d.refused = d.refused || refused
}

// over notes the end of the trouble. Trouble too short for a lease to run out
// in, such as one lost connection, is none: whoever let it run out is dead. How
// long writes were refused, a standby that only reads cannot know.
func (d *deference) over() {
	if !d.since.IsZero() && (d.refused || time.Since(d.since) >= d.ttl/3) {
		d.until = time.Now().Add(d.ttl)
	}
	d.forget()
}

// forget drops what was noted of the trouble.
func (d *deference) forget() { d.since, d.refused = time.Time{}, false }

// tryAcquire returns who holds the lease now. It looks before it takes: the
// look locks nothing, however many standbys poll. A lease that has run out is
// not taken while d, where there is one, defers to its holder; one that was
// handed back is free.
func (l *Lease) tryAcquire(ctx context.Context, d *deference) (holder string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.requestTimeout(), errors.New("lease request exceeded its deadline"))
	defer cancel()
	if d == nil {
		d = &deference{ttl: l.ttl}
	}
	holder, held, err := l.store.HeldBy(ctx)
	if err != nil {
		d.trouble(false)
		return "", fmt.Errorf("read lease: %w", err)
	}
	if holder != "" && holder != l.holder {
		if held {
			d.forget() // the leader is well
			return holder, nil
		}
		if d.refused {
			if err := l.store.Touch(ctx); err != nil {
				return "", fmt.Errorf("touch lease: %w", err)
			}
		}
		if d.over(); time.Now().Before(d.until) {
			return holder, nil
		}
	}
	sent := time.Now()
	grant, err := l.store.Acquire(ctx, l.holder, l.ttl)
	if errors.Is(err, ErrLeaseLost) {
		return "another replica", nil
	}
	if err != nil {
		d.trouble(true)
		return "", fmt.Errorf("acquire lease: %w", err)
	}
	l.clock.observe(grant.Now, sent, time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.lastCycleAt, l.renewedAt = Token{l.holder, grant.Epoch}, grant.LastCycleAt, sent
	return l.holder, nil
}

// lead runs one term: it renews until ctx ends or the lease is somebody else's,
// whom it names.
func (l *Lease) lead(ctx context.Context, lead func(context.Context)) (lost string) {
	l.log.Info().Str("role", "leader").Int64("epoch", l.Token().Epoch).Msg("this replica collects")
	term, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lead(term)
	}()
	lost = l.keep(ctx)
	end()
	<-done
	if lost != "" {
		l.log.Warn().Str("role", "standby").Str("leader", lost).Msg("lease lost: another replica collects")
		return lost
	}
	l.release()
	return ""
}

// keep renews the lease until ctx ends or another holder has it, whom it names.
func (l *Lease) keep(ctx context.Context) (lost string) {
	var renewing streak
	timer := time.NewTimer(l.ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ""
		case <-l.nudge:
		case <-timer.C:
			if left := l.untilRenewal(); left > 0 {
				l.beat(l.requestTimeout() + l.ttl/3)
				timer.Reset(left)
				continue
			}
		}
		l.beat(l.requestTimeout() + l.ttl/3)
		holder, err := l.renew(ctx)
		if ctx.Err() != nil {
			return ""
		}
		renewing.observe(l.log, err, "lease cannot be renewed, collecting goes on", "lease is renewed again")
		if err == nil && holder != l.holder {
			return holder
		}
		timer.Reset(l.ttl / 3)
	}
}

// renew extends the lease, or takes it anew where it ran out while the database
// was away and nobody else has it. It returns who holds it.
func (l *Lease) renew(ctx context.Context) (holder string, err error) {
	request, cancel := context.WithTimeoutCause(ctx, l.requestTimeout(), errors.New("lease renewal exceeded its deadline"))
	defer cancel()
	sent := time.Now()
	now, err := l.store.Renew(request, l.Token(), l.ttl)
	switch {
	case errors.Is(err, ErrLeaseLost):
		return l.tryAcquire(ctx, nil)
	case err != nil:
		return "", fmt.Errorf("renew lease: %w", err)
	}
	l.Renewed(now, sent)
	return l.holder, nil
}

// release hands the lease back, so that a standby need not wait for it to
// expire; if that fails, it waits.
func (l *Lease) release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := l.store.Release(ctx, l.Token()); err != nil && !errors.Is(err, ErrLeaseLost) {
		l.log.Warn().Err(err).Msg("lease not handed back, it will expire")
		return
	}
	l.log.Info().Msg("lease handed back")
}

// releaseTimeout is its share of the 5 s that a stop may take; see stopGrace.
const releaseTimeout = 700 * time.Millisecond

func (l *Lease) requestTimeout() time.Duration { return min(5*time.Second, l.ttl/3) }

// jittered spreads d by a third, so that replicas do not move in step.
func jittered(d time.Duration) time.Duration {
	return d - d/6 + rand.N(d/3+1)
}

// newBackOff is a back-off with jitter that never gives up.
func newBackOff(longest time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = min(200*time.Millisecond, longest)
	b.MaxInterval = longest
	b.Reset()
	return b
}

// wait returns after d, or as soon as ctx is done.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

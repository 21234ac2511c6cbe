// Package lease decides which replica of the worker collects: the one that holds
// a row in the database. Holder and epoch of that row are the fencing token of
// every write, and the database's clock is the clock of every sample.
package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/backoff"
	"ops_worker/internal/faultlog"
)

// Token is what a write is fenced by: the store refuses one that is not the
// lease's current token.
type Token struct {
	Holder string
	Epoch  int64
}

// ErrLost is a write or a renewal that the lease refused: another replica
// collects, or the lease ran out.
var ErrLost = errors.New("the lease is no longer ours")

var errReadOnly = errors.New("the database is a hot standby: nothing can be written")

// Grant is a lease just taken.
type Grant struct {
	Epoch       int64
	LastCycleAt time.Time // the newest stored cycle, of any replica
	Now         time.Time // the database's clock
}

// State is the lease as a standby sees it.
type State struct {
	// Holder is the newest one, empty where the lease was handed back.
	Holder string
	// Held is that the lease is the holder's now.
	Held bool
	// FromTheFuture is that it runs out later than its holder can have meant.
	FromTheFuture bool
	// ReadOnly is that the database can take no write: a hot standby.
	ReadOnly bool
	// LastCycleAt is the newest stored cycle, of any replica.
	LastCycleAt time.Time
}

// Store keeps the lease. Its errors mean that the database did not answer,
// but for ErrLost.
type Store interface {
	// Look reads the lease; it is zero where nobody has ever held it.
	Look(ctx context.Context) (State, error)
	// Touch fails where the database refuses writes.
	Touch(ctx context.Context) error
	// Acquire takes a lease that is free, expired or holder's own.
	Acquire(ctx context.Context, holder string, ttl time.Duration) (Grant, error)
	// Renew extends an unexpired lease; it returns the database's clock.
	Renew(ctx context.Context, token Token, ttl time.Duration) (time.Time, error)
	Release(ctx context.Context, token Token) error
}

// maxPoll bounds a standby's poll, which decides how fast it takes over.
const maxPoll = time.Second

// Lease makes this process the one that collects, or a standby.
type Lease struct {
	store  Store
	holder string
	ttl    time.Duration
	log    zerolog.Logger
	hooks  Hooks

	clock     databaseClock
	renewNow  chan struct{}
	standDown chan string

	mu          sync.Mutex
	token       Token
	lastCycleAt time.Time
	renewedAt   time.Time
	status      Status
}

// Status is the part that this process has in the lease.
type Status struct {
	Leading bool
	// Epoch is of the newest term that it led; 0 before the first.
	Epoch int64
	// SeenAt is when the lease was last read; zero before the first time.
	SeenAt time.Time
}

// Hooks are told of what a lease does. One that is nil is not called.
type Hooks struct {
	// Turned is called at every turn, with the longest time to the next one.
	Turned func(next time.Duration)
	// Superseded is called as long as another replica leads, with the newest cycle that
	// is stored: what this one still has up to there can never be.
	Superseded func(lastCycleAt time.Time)
}

// New prepares a lease for holder, a name that no other process has.
func New(store Store, holder string, ttl time.Duration, log zerolog.Logger, hooks Hooks) *Lease {
	if hooks.Turned == nil {
		hooks.Turned = func(time.Duration) {}
	}
	if hooks.Superseded == nil {
		hooks.Superseded = func(time.Time) {}
	}
	return &Lease{store: store, holder: holder, ttl: ttl, log: log, hooks: hooks, renewNow: make(chan struct{}, 1), standDown: make(chan string, 1)}
}

// Holder is the name under which this process holds the lease.
func (l *Lease) Holder() string { return l.holder }

// Token is the token of the newest grant.
func (l *Lease) Token() Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}

// Status is what this process is now.
func (l *Lease) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.status
	status.Epoch = l.token.Epoch
	return status
}

// seen notes that the lease was read.
func (l *Lease) seen() { l.note(func(s *Status) { s.SeenAt = time.Now() }) }

func (l *Lease) note(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
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

// RenewNow renews the lease at once, for a store that was refused: so it looks
// whether it is still held.
func (l *Lease) RenewNow() {
	select {
	case l.renewNow <- struct{}{}:
	default:
	}
}

// StandDown hands the lease back at once, for a loop that stands still. This process
// takes the lease again when all its loops have ended.
func (l *Lease) StandDown(loop string) {
	select {
	case l.standDown <- loop:
	default:
	}
}

// Run takes the lease whenever it can be had and calls lead for as long as it
// is held; lead returns soon after its context is done, or is left behind. Run ends
// with ctx, with the lease handed back.
//
// While the database cannot be asked, a leader goes on leading: nobody else can
// take the lease from that database either, and where only this process is cut
// off, the fence keeps what it collects out until it knows.
func (l *Lease) Run(ctx context.Context, lead func(context.Context)) {
	var asking faultlog.Log
	retry := backoff.New(maxPoll)
	role := ""
	delay := &takeoverDelay{ttl: l.ttl}
	for ctx.Err() == nil {
		l.hooks.Turned(l.requestTimeout() + maxPoll)
		holder, err := l.tryAcquire(ctx, delay)
		if ctx.Err() != nil {
			if holder == l.holder {
				l.Release()
			}
			return
		}
		asking.Observe(l.log, err, "lease cannot be asked for", "lease can be asked for again")
		switch {
		case err != nil:
			backoff.Wait(ctx, retry.NextBackOff())
			continue
		case holder == l.holder:
			role = l.lead(ctx, lead)
		case role != holder:
			role = holder
			l.log.Info().Str("role", "standby").Str("leader", holder).Msg("another replica collects")
		}
		retry.Reset()
		backoff.Wait(ctx, backoff.Jittered(min(maxPoll, l.ttl/3)))
	}
}

// takeoverDelay keeps a standby from a lease that ran out in an outage of the
// database. The leader has what was measured meanwhile and comes back for its
// lease; it gets one ttl for that, from the end of the outage.
type takeoverDelay struct {
	ttl     time.Duration
	since   time.Time // when the outage began, zero outside of one
	refused bool      // the database answered in it, but refused a write
	until   time.Time
}

// failed notes that the database did not answer, or refused a write.
func (d *takeoverDelay) failed(refused bool) {
	if d.since.IsZero() {
		d.since = time.Now()
	}
	d.refused = d.refused || refused
}

// recovered begins the delay where the outage was long enough for a lease to run
// out in it. In a shorter one, such as one lost connection, the lease ran out
// because its holder is dead. How long writes were refused, a standby that only
// reads cannot know.
func (d *takeoverDelay) recovered() {
	if !d.since.IsZero() && (d.refused || time.Since(d.since) >= d.ttl/3) {
		d.until = time.Now().Add(d.ttl)
	}
	d.forget()
}

// forget drops what was noted of the outage.
func (d *takeoverDelay) forget() { d.since, d.refused = time.Time{}, false }

// TryAcquire takes the lease if it can be had at once, and returns who holds it
// now.
func (l *Lease) TryAcquire(ctx context.Context) (holder string, err error) {
	return l.tryAcquire(ctx, &takeoverDelay{ttl: l.ttl})
}

// tryAcquire returns who holds the lease now. It looks before it takes: the look
// locks nothing, however many standbys poll. A lease that has run out is not
// taken before d is over; one that was handed back is free.
func (l *Lease) tryAcquire(ctx context.Context, d *takeoverDelay) (holder string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.requestTimeout(), errors.New("lease request exceeded its deadline"))
	defer cancel()
	lease, err := l.store.Look(ctx)
	if err != nil {
		d.failed(false)
		return "", fmt.Errorf("read lease: %w", err)
	}
	l.seen()
	if lease.ReadOnly {
		// Not tried: the server would log an error each time.
		d.failed(true)
		return "", errReadOnly
	}
	if holder := lease.Holder; holder != "" && holder != l.holder {
		if lease.Held {
			d.forget()                                         // the leader is well
			if lease.LastCycleAt.Sub(l.Now()) <= FutureLimit { // else a clock that was wrong has stamped it
				l.hooks.Superseded(lease.LastCycleAt)
			}
			return holder, nil
		}
		if lease.FromTheFuture {
			l.log.Warn().Str("leader", holder).Msg("lease was written by a clock that was ahead, it is not held")
		}
		if d.refused {
			if err := l.store.Touch(ctx); err != nil {
				return "", fmt.Errorf("touch lease: %w", err)
			}
		}
		if d.recovered(); time.Now().Before(d.until) {
			return holder, nil
		}
	}
	sent := time.Now()
	grant, err := l.store.Acquire(ctx, l.holder, l.ttl)
	if errors.Is(err, ErrLost) {
		return "another replica", nil
	}
	if err != nil {
		d.failed(true)
		return "", fmt.Errorf("acquire lease: %w", err)
	}
	l.clock.observe(grant.Now, sent, time.Now())
	if ahead := grant.LastCycleAt.Sub(grant.Now); ahead > FutureLimit {
		l.log.Error().Time("newest_cycle", grant.LastCycleAt).Msg("the newest stored cycle lies in the future, it counts for nothing")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.token, l.lastCycleAt, l.renewedAt = Token{l.holder, grant.Epoch}, grant.LastCycleAt, sent
	return l.holder, nil
}

// stopPatience is how long a term that was told to end may take, before it is left
// behind: its share of the 5 s that a stop may take.
const stopPatience = 3700 * time.Millisecond

// lead runs one term, until ctx ends, another replica has the lease or a loop stands
// still; it returns that replica.
func (l *Lease) lead(ctx context.Context, lead func(context.Context)) (lost string) {
	l.log.Info().Str("role", "leader").Int64("epoch", l.Token().Epoch).Msg("this replica collects")
	l.note(func(s *Status) { s.Leading = true })
	select {
	case <-l.standDown: // of an earlier term
	default:
	}
	term, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer faultlog.Recovered(l.log.WithContext(term), func(error) {})
		lead(term)
	}()
	lost, stalled := l.keep(ctx)
	l.note(func(s *Status) { s.Leading = false })
	switch {
	case stalled != "":
		// First, since nobody knows what the loop waits for.
		l.Release()
		l.log.Error().Str("role", "standby").Str("stands_still", stalled).Msg("a loop stands still, this replica does not collect until it returns")
	case lost != "":
		l.log.Warn().Str("role", "standby").Str("leader", lost).Msg("lease lost: another replica collects")
	}
	end()
	l.await(ctx, done)
	if stalled == "" && lost == "" {
		l.Release()
	}
	return lost
}

// await waits for a term to end; once ctx is done, no longer than stopPatience.
func (l *Lease) await(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
		l.log.Error().Msg("a loop does not end, it is left behind")
	}
}

// keep renews the lease until ctx ends, another holder has it or a loop stands still;
// it returns that holder, or that loop.
func (l *Lease) keep(ctx context.Context) (lost, stalled string) {
	var renewing faultlog.Log
	retry := backoff.New(min(maxPoll, l.ttl/3))
	timer := time.NewTimer(l.ttl / 3)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return "", ""
		case stalled := <-l.standDown:
			return "", stalled
		case <-l.renewNow:
		case <-timer.C:
			if left := l.untilRenewal(); left > 0 {
				l.hooks.Turned(l.requestTimeout() + l.ttl/3)
				timer.Reset(left)
				continue
			}
		}
		l.hooks.Turned(l.requestTimeout() + l.ttl/3)
		holder, err := l.renew(ctx)
		if ctx.Err() != nil {
			return "", ""
		}
		renewing.Observe(l.log, err, "lease cannot be renewed, collecting goes on", "lease is renewed again")
		if err != nil {
			// A third of its time is gone, and what failed may have been one connection.
			timer.Reset(retry.NextBackOff())
			continue
		}
		if holder != l.holder {
			return holder, ""
		}
		retry.Reset()
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
	case errors.Is(err, ErrLost):
		return l.TryAcquire(ctx)
	case err != nil:
		return "", fmt.Errorf("renew lease: %w", err)
	}
	l.Renewed(now, sent)
	return l.holder, nil
}

// Release hands the lease back, so that a standby need not wait for it to
// expire; if that fails, it waits.
func (l *Lease) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := l.store.Release(ctx, l.Token()); err != nil && !errors.Is(err, ErrLost) {
		l.log.Warn().Err(err).Msg("lease not handed back, it will expire")
		return
	}
	l.log.Info().Msg("lease handed back")
}

// releaseTimeout is the share of the lease in the 5 s that a stop may take.
const releaseTimeout = 700 * time.Millisecond

func (l *Lease) requestTimeout() time.Duration { return min(5*time.Second, l.ttl/3) }

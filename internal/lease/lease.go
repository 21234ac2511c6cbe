// Package lease decides which replica of the worker collects: the one that holds
// a row in the database. The holder and epoch of that row are the fencing token of
// every write. The database's clock stamps every sample.
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

// Token fences a write: the store refuses every token but the lease's current one.
type Token struct {
	Holder string
	Epoch  int64
}

// ErrLost is returned for a write or a renewal without the lease: another replica
// collects, or the lease expired.
var ErrLost = errors.New("the lease is no longer ours")

// Grant is a lease just taken.
type Grant struct {
	Epoch       int64
	LastCycleAt time.Time // the newest stored cycle, of any replica
	Now         time.Time // the database's clock
}

// State is the lease as a standby sees it.
type State struct {
	Holder string // the newest one; empty after the lease was handed back
	Held   bool   // it has not expired
	// FromTheFuture is true if the lease expires later than its ttl allows: the clock
	// was ahead when it was written.
	FromTheFuture bool
	ReadOnly      bool      // the database is a hot standby
	LastCycleAt   time.Time // the newest stored cycle, of any replica
}

// Store keeps the lease. Every error but ErrLost means that the database did not answer.
type Store interface {
	// Look reads the lease; the zero State means that nobody has ever held it.
	Look(ctx context.Context) (State, error)
	// Touch fails if the database refuses writes.
	Touch(ctx context.Context) error
	// Acquire takes a lease that is free, expired or already holder's.
	Acquire(ctx context.Context, holder string, ttl time.Duration) (Grant, error)
	// Renew extends an unexpired lease and returns the database's clock.
	Renew(ctx context.Context, token Token, ttl time.Duration) (time.Time, error)
	Release(ctx context.Context, token Token) error
}

// maxPoll bounds how often a standby polls, and so how soon it takes over.
const maxPoll = time.Second

// Of the 5 s that a stop may take, stopTimeout is for the loops to end, and
// releaseTimeout for handing back the lease. The rest is for the pools to close, and for
// a machine that is busy.
const (
	stopTimeout    = 3300 * time.Millisecond
	releaseTimeout = 600 * time.Millisecond
)

// Lease makes this process the leader, which collects, or a standby.
type Lease struct {
	store  Store
	holder string
	ttl    time.Duration
	log    zerolog.Logger
	hooks  Hooks

	clock     databaseClock
	awaySince time.Time // when the lease could first not be read; zero while it can
	renewNow  chan struct{}
	standDown chan string

	mu        sync.Mutex
	grant     Grant // the newest
	renewedAt time.Time
	status    Status
}

// Status is the role of this process.
type Status struct {
	Leading bool
	// Epoch is of the newest term that it led; 0 before the first.
	Epoch int64
	// SeenAt is when the lease was last read; zero before the first time.
	SeenAt time.Time
}

// Hooks are called by Run; each may be nil.
type Hooks struct {
	// Turned is called at every turn, with the longest time to the next one.
	Turned func(next time.Duration)
	// Superseded is called while another replica leads, with the newest stored cycle:
	// buffered cycles up to that time can never be stored.
	Superseded func(lastCycleAt time.Time)
	// Answered is called when the database answers again, with the time since when it had
	// not. It is not called by a leader, nor before the database has answered once.
	Answered func(away, back time.Time)
}

// New prepares a lease for holder, a name that no other process has.
func New(store Store, holder string, ttl time.Duration, log zerolog.Logger, hooks Hooks) *Lease {
	if hooks.Turned == nil {
		hooks.Turned = func(time.Duration) {}
	}
	if hooks.Superseded == nil {
		hooks.Superseded = func(time.Time) {}
	}
	if hooks.Answered == nil {
		hooks.Answered = func(time.Time, time.Time) {}
	}
	return &Lease{store: store, holder: holder, ttl: ttl, log: log, hooks: hooks, renewNow: make(chan struct{}, 1), standDown: make(chan string, 1)}
}

// Run takes the lease whenever it is free and calls lead for as long as it is held.
// lead should return soon after its context is done; at a stop, Run does not wait for
// it longer than stopTimeout. Run ends with ctx, and hands the lease back.
//
// A leader goes on while the database does not answer: nobody else can take the lease
// from that database either. If only this process is cut off, the fence refuses its
// writes until it knows.
func (l *Lease) Run(ctx context.Context, lead func(context.Context)) {
	var faults faultlog.Log
	retry := backoff.New(maxPoll)
	leader := ""
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
		faults.Observe(l.log, err, "lease cannot be asked for", "lease can be asked for again")
		switch {
		case err != nil:
			backoff.Wait(ctx, retry.NextBackOff())
			continue
		case holder == l.holder:
			leader = l.lead(ctx, lead)
		case leader != holder:
			leader = holder
			l.log.Info().Str("role", "standby").Str("leader", holder).Msg("another replica collects")
		}
		retry.Reset()
		backoff.Wait(ctx, backoff.Jittered(min(maxPoll, l.ttl/3)))
	}
}

// TryAcquire takes the lease if it is free now, and returns its holder.
func (l *Lease) TryAcquire(ctx context.Context) (holder string, err error) {
	return l.tryAcquire(ctx, &takeoverDelay{ttl: l.ttl})
}

// tryAcquire is TryAcquire, but takes an expired lease only after the delay d. It
// reads first, which locks nothing, however many standbys poll.
func (l *Lease) tryAcquire(ctx context.Context, d *takeoverDelay) (holder string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.requestTimeout(), errors.New("lease request exceeded its deadline"))
	defer cancel()
	lease, err := l.store.Look(ctx)
	l.noticeOutage(err)
	if err != nil {
		d.failed(false)
		return "", fmt.Errorf("read lease: %w", err)
	}
	l.note(func(s *Status) { s.SeenAt = time.Now() })
	if lease.ReadOnly { // not tried: the server would log an error each time
		d.failed(true)
		return "", errors.New("the database is a hot standby: nothing can be written")
	}
	if holder := lease.Holder; holder != "" && holder != l.holder {
		if lease.Held {
			d.reset()
			if lease.LastCycleAt.Sub(l.Now()) <= FutureLimit {
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
	if grant.LastCycleAt.Sub(grant.Now) > FutureLimit {
		l.log.Error().Time("newest_cycle", grant.LastCycleAt).Msg("the newest stored cycle lies in the future, it counts for nothing")
	}
	l.Renewed(grant.Now, sent)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grant = grant
	return l.holder, nil
}

// noticeOutage notes that the lease could not be read, or could again.
func (l *Lease) noticeOutage(err error) {
	switch status := l.Status(); {
	case err != nil && l.awaySince.IsZero() && !status.Leading && !status.SeenAt.IsZero():
		l.awaySince = l.Now()
	case err == nil && !l.awaySince.IsZero():
		l.hooks.Answered(l.awaySince, l.Now())
		l.awaySince = time.Time{}
	}
}

// lead runs one term, until ctx ends, another replica has the lease, which it returns,
// or a loop stands still.
func (l *Lease) lead(ctx context.Context, lead func(context.Context)) (newLeader string) {
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
	newLeader, stalled := l.keep(ctx)
	l.note(func(s *Status) { s.Leading = false })
	switch {
	case stalled != "":
		// Released before the loops end: the stalled one may never.
		l.Release()
		l.log.Error().Str("role", "standby").Str("stands_still", stalled).Msg("a loop stands still, this replica does not collect until it returns")
	case newLeader != "":
		l.log.Warn().Str("role", "standby").Str("leader", newLeader).Msg("lease lost: another replica collects")
	}
	end()
	l.await(ctx, done)
	if stalled == "" && newLeader == "" {
		l.Release()
	}
	return newLeader
}

// await waits for a term to end; once ctx is done, no longer than stopTimeout.
func (l *Lease) await(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
		l.log.Error().Msg("a loop does not end, it is left behind")
	}
}

// keep renews the lease until ctx ends, another replica has the lease or a loop stands
// still; it returns that replica or that loop.
func (l *Lease) keep(ctx context.Context) (newLeader, stalled string) {
	var faults faultlog.Log
	interval := l.ttl / 3
	retry := backoff.New(min(maxPoll, interval))
	timer := time.NewTimer(interval)
	defer timer.Stop()
	for {
		early := false
		select {
		case <-ctx.Done():
			return "", ""
		case stalled := <-l.standDown:
			return "", stalled
		case <-l.renewNow:
			early = true
		case <-timer.C:
		}
		l.hooks.Turned(l.requestTimeout() + interval)
		if left := interval - l.sinceRenewal(); left > 0 && !early { // a store has renewed it
			timer.Reset(left)
			continue
		}
		holder, err := l.renew(ctx)
		if ctx.Err() != nil {
			return "", ""
		}
		faults.Observe(l.log, err, "lease cannot be renewed, collecting goes on", "lease is renewed again")
		if err != nil {
			// Soon again, since a third of the ttl is gone, and perhaps only one
			// connection failed.
			timer.Reset(retry.NextBackOff())
			continue
		}
		if holder != l.holder {
			return holder, ""
		}
		retry.Reset()
		timer.Reset(interval)
	}
}

// renew extends the lease, or takes it again if it expired and nobody else has it. It
// returns the holder.
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

// Release hands the lease back, so that a standby need not wait until it expires. An
// error is only logged: the lease then expires.
func (l *Lease) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	if err := l.store.Release(ctx, l.Token()); err != nil && !errors.Is(err, ErrLost) {
		l.log.Warn().Err(err).Msg("lease not handed back, it will expire")
		return
	}
	l.log.Info().Msg("lease handed back")
}

// Renewed notes that a store, sent at that instant, has renewed the lease and returned
// the database's clock.
func (l *Lease) Renewed(now, sent time.Time) {
	l.clock.observe(now, sent, time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewedAt = sent
}

// RenewNow renews the lease at once. A loop calls it when the fence has refused its
// write, to find out who holds the lease.
func (l *Lease) RenewNow() {
	select {
	case l.renewNow <- struct{}{}:
	default:
	}
}

// StandDown hands the lease back at once, because loop stands still. This process
// takes the lease again only after all its loops have ended.
func (l *Lease) StandDown(loop string) {
	select {
	case l.standDown <- loop:
	default:
	}
}

// Now is the database's time.
func (l *Lease) Now() time.Time { return l.clock.now() }

// Holder is the name under which this process holds the lease.
func (l *Lease) Holder() string { return l.holder }

// Token is the token of the newest grant.
func (l *Lease) Token() Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Token{l.holder, l.grant.Epoch}
}

// LastCycleAt is the newest stored cycle as of the newest grant.
func (l *Lease) LastCycleAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.grant.LastCycleAt
}

// Status is the role of this process now.
func (l *Lease) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := l.status
	status.Epoch = l.grant.Epoch
	return status
}

func (l *Lease) note(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
}

func (l *Lease) sinceRenewal() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.renewedAt)
}

func (l *Lease) requestTimeout() time.Duration { return min(5*time.Second, l.ttl/3) }

// takeoverDelay keeps a standby from taking a lease that expired during an outage of
// the database. The leader has buffered what it measured meanwhile and will renew; it
// gets one ttl for that after the outage.
type takeoverDelay struct {
	ttl     time.Duration
	since   time.Time // when the outage began; zero outside of one
	refused bool      // during the outage the database answered, but refused a write
	until   time.Time
}

// failed notes that the database did not answer, or refused a write.
func (d *takeoverDelay) failed(refused bool) {
	if d.since.IsZero() {
		d.since = time.Now()
	}
	d.refused = d.refused || refused
}

// recovered starts the delay if the lease can have expired in the outage. In a shorter
// outage, such as one lost connection, it expired because its holder is dead. How long
// writes were refused is unknown to a standby, which only reads, so it always waits.
func (d *takeoverDelay) recovered() {
	if !d.since.IsZero() && (d.refused || time.Since(d.since) >= d.ttl/3) {
		d.until = time.Now().Add(d.ttl)
	}
	d.reset()
}

// reset ends the outage.
func (d *takeoverDelay) reset() { d.since, d.refused = time.Time{}, false }

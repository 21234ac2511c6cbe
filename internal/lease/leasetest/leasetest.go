// Package leasetest is a lease in memory, with the faults that a test asks for.
package leasetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"ops_worker/internal/lease"
)

// Store is a lease.Store. Lock it to read or change its fields while leases use
// it.
type Store struct {
	sync.Mutex

	// Fail is asked before every operation (look, touch, acquire, renew,
	// release); nil is no fault.
	Fail func(operation string) error

	Holder      string
	Epoch       int64
	Expires     time.Time
	ttl         time.Duration
	LastCycleAt time.Time
	Calls       []string // the operations so far
}

var _ lease.Store = (*Store)(nil)

// Begin notes an operation and returns its fault. The store is locked.
func (s *Store) Begin(operation string) error {
	s.Calls = append(s.Calls, operation)
	if s.Fail != nil {
		return s.Fail(operation)
	}
	return nil
}

// Fence fails a write without the lease. The store is locked.
func (s *Store) Fence(token lease.Token) error {
	if token != (lease.Token{Holder: s.Holder, Epoch: s.Epoch}) || !time.Now().Before(s.Expires) {
		return lease.ErrLost
	}
	return nil
}

// SetFail changes the fault.
func (s *Store) SetFail(fail func(operation string) error) {
	s.Lock()
	defer s.Unlock()
	s.Fail = fail
}

// Usurp gives the lease to another holder, whoever has it.
func (s *Store) Usurp(holder string, epoch int64) {
	s.Lock()
	defer s.Unlock()
	s.Holder, s.Epoch, s.Expires, s.ttl = holder, epoch, time.Now().Add(time.Hour), time.Hour
}

// held reports whether somebody holds the lease. The store is locked.
func (s *Store) held() bool {
	left := time.Until(s.Expires)
	return s.Holder != "" && left > 0 && left <= s.ttl
}

// Look implements lease.Store.
func (s *Store) Look(context.Context) (lease.State, error) {
	s.Lock()
	defer s.Unlock()
	if err := s.Begin("look"); err != nil {
		return lease.State{}, err
	}
	return lease.State{Holder: s.Holder, Held: s.held(), FromTheFuture: time.Until(s.Expires) > s.ttl, LastCycleAt: s.LastCycleAt}, nil
}

// Touch implements lease.Store.
func (s *Store) Touch(context.Context) error {
	s.Lock()
	defer s.Unlock()
	return s.Begin("touch")
}

// Acquire implements lease.Store.
func (s *Store) Acquire(_ context.Context, holder string, ttl time.Duration) (lease.Grant, error) {
	s.Lock()
	defer s.Unlock()
	if err := s.Begin("acquire"); err != nil {
		return lease.Grant{}, err
	}
	if s.held() && s.Holder != holder {
		return lease.Grant{}, lease.ErrLost
	}
	s.Holder, s.Expires, s.ttl = holder, time.Now().Add(ttl), ttl
	s.Epoch++
	return lease.Grant{Epoch: s.Epoch, LastCycleAt: s.LastCycleAt, Now: time.Now()}, nil
}

// Renew implements lease.Store.
func (s *Store) Renew(_ context.Context, token lease.Token, ttl time.Duration) (time.Time, error) {
	s.Lock()
	defer s.Unlock()
	if err := errors.Join(s.Begin("renew"), s.Fence(token)); err != nil {
		return time.Time{}, err
	}
	s.Expires = time.Now().Add(ttl)
	return time.Now(), nil
}

// Release implements lease.Store.
func (s *Store) Release(_ context.Context, token lease.Token) error {
	s.Lock()
	defer s.Unlock()
	if err := errors.Join(s.Begin("release"), s.Fence(token)); err != nil {
		return err
	}
	s.Holder, s.Expires = "", time.Now()
	return nil
}

// Held is a lease on store that its holder, "test", has just taken for ttl.
func Held(tb testing.TB, store lease.Store, ttl time.Duration) *lease.Lease {
	tb.Helper()
	l := lease.New(store, "test", ttl, zerolog.Nop(), lease.Hooks{})
	if holder, err := l.TryAcquire(tb.Context()); err != nil || holder != "test" {
		tb.Fatalf("TryAcquire = %q, %v", holder, err)
	}
	return l
}

package collectors

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// fakeStore is a database in memory, with the faults that a test asks for.
type fakeStore struct {
	mu sync.Mutex

	fail      func(operation string) error // nil is no fault
	aggregate func() Aggregates

	holder    string
	epoch     int64
	expires   time.Time
	lastCycle time.Time

	cycles  []Cycle
	health  map[string]Observation
	savedAt []time.Time
	open    map[string]string // service → reason
	calls   []string
	changed []bool // of every call of SyncAlerts
}

func newFakeStore() *fakeStore {
	return &fakeStore{health: map[string]Observation{}, open: map[string]string{}}
}

func (f *fakeStore) begin(operation string) error {
	f.calls = append(f.calls, operation)
	if f.fail != nil {
		return f.fail(operation)
	}
	return nil
}

func (f *fakeStore) fence(token Token) error {
	if token != (Token{f.holder, f.epoch}) || !time.Now().Before(f.expires) {
		return ErrLeaseLost
	}
	return nil
}

func (f *fakeStore) Ping(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begin("ping")
}

func (f *fakeStore) Aggregates(context.Context) Aggregates {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("aggregates"); err != nil {
		return Aggregates{Failed: map[string]error{"all": err}}
	}
	if f.aggregate != nil {
		return f.aggregate()
	}
	return Aggregates{Answered: true, Samples: []Sample{
		sampleOf("postgres", "connections", 7),
		sampleOf("postgres", "db_size_bytes", 1e6),
		sampleOf("platform", "devices_online", 3),
	}}
}

func (f *fakeStore) AppendCycles(_ context.Context, token Token, cycles []Cycle) (int, time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.begin("append"), f.fence(token)); err != nil {
		return 0, time.Time{}, err
	}
	stored := 0
	for _, c := range cycles {
		if c.At.After(f.lastCycle) {
			f.cycles = append(f.cycles, c)
			stored += len(c.Samples)
			f.lastCycle = c.At
		}
	}
	return stored, time.Now(), nil
}

func (f *fakeStore) SaveHealth(_ context.Context, token Token, at time.Time, observations []Observation) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.begin("health"), f.fence(token)); err != nil {
		return err
	}
	f.savedAt = append(f.savedAt, at)
	for _, o := range observations {
		f.health[o.Service] = o
	}
	return nil
}

func (f *fakeStore) SyncAlerts(_ context.Context, token Token, observations []Observation, changed bool) (opened, closed []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed = append(f.changed, changed)
	if err := errors.Join(f.begin("alerts"), f.fence(token)); err != nil {
		return nil, nil, err
	}
	for _, o := range observations {
		_, isOpen := f.open[o.Service]
		switch {
		case o.Status != Healthy && !isOpen:
			f.open[o.Service] = o.Reason()
			opened = append(opened, o.Service)
		case o.Status == Healthy && isOpen:
			delete(f.open, o.Service)
			closed = append(closed, o.Service)
		}
	}
	return opened, closed, nil
}

func (f *fakeStore) ExpireSamples(_ context.Context, token Token, cutoff time.Time, _ int) (removed int64, more bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.begin("expire"), f.fence(token)); err != nil {
		return 0, false, err
	}
	for i, c := range f.cycles {
		if c.At.Before(cutoff) {
			f.cycles = slices.Delete(f.cycles, i, i+1)
			return 1, true, nil // the smallest batch there is
		}
	}
	return 0, false, nil
}

func (f *fakeStore) HeldBy(context.Context) (holder string, held bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("held"); err != nil {
		return "", false, err
	}
	return f.holder, time.Now().Before(f.expires), nil
}

func (f *fakeStore) Touch(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begin("touch")
}

func (f *fakeStore) Acquire(_ context.Context, holder string, ttl time.Duration) (Grant, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin("acquire"); err != nil {
		return Grant{}, err
	}
	if time.Now().Before(f.expires) && f.holder != holder {
		return Grant{}, ErrLeaseLost
	}
	f.holder, f.expires = holder, time.Now().Add(ttl)
	f.epoch++
	return Grant{Epoch: f.epoch, LastCycleAt: f.lastCycle, Now: time.Now()}, nil
}

func (f *fakeStore) Renew(_ context.Context, token Token, ttl time.Duration) (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.begin("renew"), f.fence(token)); err != nil {
		return time.Time{}, err
	}
	f.expires = time.Now().Add(ttl)
	return time.Now(), nil
}

func (f *fakeStore) Release(_ context.Context, token Token) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(f.begin("release"), f.fence(token)); err != nil {
		return err
	}
	f.holder, f.expires = "", time.Now()
	return nil
}

// snapshot reads the store while loops write to it.
func (f *fakeStore) snapshot(read func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	read()
}

// heldLease is a lease on f that its holder has just taken.
func heldLease(t *testing.T, f *fakeStore) *Lease {
	t.Helper()
	lease := NewLease(f, "test", time.Hour, zerolog.Nop(), nil)
	if holder, err := lease.tryAcquire(t.Context(), nil); err != nil || holder != "test" {
		t.Fatalf("tryAcquire = %q, %v", holder, err)
	}
	return lease
}

// answering is a probe that always brings back r.
func answering(r Reading) Probe { return func(context.Context) Reading { return r } }

// capturedLog is a logger whose lines a test can read.
type capturedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *capturedLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(p)
}

func (c *capturedLog) logger() zerolog.Logger { return zerolog.New(c) }

// lines returns the lines whose message is msg.
func (c *capturedLog) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []map[string]any
	for line := range strings.Lines(c.buf.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("log line %q is not JSON: %v", line, err)
		}
		if fields[zerolog.MessageFieldName] == msg {
			found = append(found, fields)
		}
	}
	return found
}

// pass lets time pass in a synctest bubble, where nobody waits for it.
func pass(d time.Duration) { time.Sleep(d) }

package spool

import (
	"strings"
	"testing"
	"time"
)

func TestBufferGivesItsOldestUpToOneStatement(t *testing.T) {
	b := NewMemory(100)
	for i := range 10 {
		if _, err := b.Push(Cycle{At: time.Unix(int64(i), 0), Samples: make([]Sample, 15)}); err != nil {
			t.Fatal(err)
		}
	}
	got, through := b.Oldest(50)
	if len(got) != 3 || got[0].At.Unix() != 0 {
		t.Errorf("%d cycles from %s", len(got), got[0].At)
	}
	if one, _ := b.Oldest(1); len(one) != 1 {
		t.Errorf("%d cycles, want at least one however large", len(one))
	}
	for range 2 { // the second time there is nothing left to take away
		if err := b.Remove(through); err != nil || b.Len() != 7 {
			t.Errorf("after Remove: %d cycles, %v", b.Len(), err)
		}
	}
	if left, _ := b.Oldest(1); left[0].At.Unix() != 3 {
		t.Errorf("the oldest is now of %s", left[0].At)
	}
}

// What is dropped for want of room while a store is in flight is not taken away
// a second time when that succeeds.
func TestBufferThatOverflowsWhileAStoreIsInFlight(t *testing.T) {
	b := NewMemory(3)
	push := func(n int) {
		t.Helper()
		if _, err := b.Push(Cycle{At: time.Unix(int64(n), 0)}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		push(n)
	}
	sent, through := b.Oldest(1000)
	push(3)
	push(4) // 0 and 1 are dropped
	if err := b.Remove(through); err != nil {
		t.Fatal(err)
	}
	left, _ := b.Oldest(1000)
	if len(sent) != 3 || sent[0].At.Unix() != 0 || len(left) != 2 || left[0].At.Unix() != 3 {
		t.Errorf("sent %v, left %v", sent, left)
	}
}

func TestBufferIsBoundedInBytes(t *testing.T) {
	b := NewMemory(1_000_000)
	large := Cycle{Samples: []Sample{{Tags: strings.Repeat("x", 1<<20)}}}
	dropped := 0
	for range 100 {
		gone, err := b.Push(large)
		if err != nil {
			t.Fatal(err)
		}
		dropped += len(gone)
	}
	if b.Len() < 25 || b.Len() > 32 || b.Len()+dropped != 100 {
		t.Errorf("%d cycles of 1 MiB are kept and %d dropped", b.Len(), dropped)
	}
}

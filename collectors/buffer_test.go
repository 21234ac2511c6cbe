package collectors

import (
	"strings"
	"testing"
	"time"
)

func TestBufferGivesItsOldestUpToOneStatement(t *testing.T) {
	b := NewMemoryBuffer(100)
	for i := range 10 {
		if _, err := b.Push(Cycle{At: time.Unix(int64(i), 0), Samples: make([]Sample, 15)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.Oldest(50); len(got) != 3 || got[0].At.Unix() != 0 {
		t.Errorf("%d cycles from %s", len(got), got[0].At)
	}
	if got := b.Oldest(1); len(got) != 1 {
		t.Errorf("%d cycles, want at least one however large", len(got))
	}
	if err := b.Remove(3); err != nil || b.Len() != 7 || b.Oldest(1)[0].At.Unix() != 3 {
		t.Errorf("after Remove: %d cycles, %v", b.Len(), err)
	}
}

func TestBufferIsBoundedInBytes(t *testing.T) {
	b := NewMemoryBuffer(1_000_000)
	large := Cycle{Samples: []Sample{{Tags: strings.Repeat("x", 1<<20)}}}
	dropped := 0
	for range 100 {
		n, err := b.Push(large)
		if err != nil {
			t.Fatal(err)
		}
		dropped += n
	}
	if b.Len() < 25 || b.Len() > 32 || b.Len()+dropped != 100 {
		t.Errorf("%d cycles of 1 MiB are kept and %d dropped", b.Len(), dropped)
	}
}

package db_test

import (
	"errors"
	"fmt"
	"testing"

	"ops_worker/db"
)

func TestRootCause(t *testing.T) {
	t.Parallel()
	last := errors.New("last")
	err := fmt.Errorf("outer: %w", errors.Join(errors.New("first"), fmt.Errorf("two: %w", last)))
	if got := db.RootCause(err); got != last {
		t.Errorf("RootCause = %v, want %v", got, last)
	}
}

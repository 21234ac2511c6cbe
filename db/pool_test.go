package db_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ops_worker/db"
)

// The formats of values are ours, however the URL writes the names of others.
func TestStartUpParametersAreSaidOnce(t *testing.T) {
	t.Parallel()
	config, err := db.PoolConfig(db.Options{URL: "postgres://localhost/iot?datestyle=German&TIMEZONE=Asia/Kathmandu&client_encoding=latin1&application_name=x", ApplicationName: "ops_worker"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"application_name": "ops_worker", "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}
	if diff := cmp.Diff(want, config.ConnConfig.RuntimeParams); diff != "" {
		t.Error(diff)
	}
}

func TestRootCause(t *testing.T) {
	t.Parallel()
	last := errors.New("last")
	err := fmt.Errorf("outer: %w", errors.Join(errors.New("first"), fmt.Errorf("two: %w", last)))
	if got := db.RootCause(err); got != last {
		t.Errorf("RootCause = %v, want %v", got, last)
	}
}

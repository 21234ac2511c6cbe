package db_test

import (
	"testing"

	"ops_worker/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

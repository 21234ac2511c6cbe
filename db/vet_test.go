package db_test

import (
	"os"
	"os/exec"
	"testing"

	"ops_worker/internal/pgtest"
)

// TestEveryQueryIsPrepared is `make sqlc-vet`: sqlc prepares every query on a migrated database.
func TestEveryQueryIsPrepared(t *testing.T) {
	if os.Getenv("SQLC_VET") == "" {
		t.Skip("make sqlc-vet runs it, since it builds sqlc")
	}
	database := pgtest.New(t)
	database.NewerTables(t)
	command := exec.CommandContext(t.Context(), "go", "tool", "-modfile=tools/go.mod", "sqlc", "vet")
	command.Dir = ".."
	command.Env = append(os.Environ(), "SQLC_VET_DATABASE_URL="+database.URL)
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}

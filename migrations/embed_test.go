package migrations

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sums are those of every migration that has landed. A landed one is not edited: a
// database that has applied it would never learn of the change. Add the next number
// instead, and its line here.
var sums = map[string]string{
	"00001_worker_tables.sql": "63262df1d5fd2b03c0df4080a1fc0ca5896ca15e24ebdc1c67239d7b8f019918",
	"00002_lease.sql":         "783532e2ca472a2ef5fe34b4d8f85cee6ee7f0e036b5d18bc01e52d057473ac2",
	"00003_streak.sql":        "d9a05c7c942def804ca13a363a3831202006b5d654292516ad094677f80f86b4",
	"00004_earlier_lease.sql": "5e77c548de51e8edac201082674946000fa84dd8fd035d3b4e46cb9ae4422a84",
	"00005_series.sql":        "59f50ead3fe72b35fdfaa90d595b25e5d6fbcd230e70a0bd9e772bc9d1f45ee7",
	"00006_latest.sql":        "140da7acc7519724978fc6e77c894d823d00e0f47c5d2564e186281773cb00eb",
	"00007_alerts.sql":        "37ccbb8039448ca72d826c71c12ff140eb516d0d1db376b82dd9818058aae31f",
}

func TestMigrationsThatHaveLandedAreFrozen(t *testing.T) {
	got := map[string]string{}
	files, err := fs.Glob(FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := FS.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		got[file] = hex.EncodeToString(sum[:])
	}
	if diff := cmp.Diff(sums, got); diff != "" {
		t.Errorf("a migration has changed: %s", diff)
	}
}

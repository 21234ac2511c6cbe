package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func openRecords(t *testing.T, path string) (*recordLog, []string, int64) {
	t.Helper()
	log, records, dropped, err := openLog(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.close() })
	var texts []string
	for _, r := range records {
		texts = append(texts, string(r))
	}
	return log, texts, dropped
}

// written is a file of three records, and its content.
func written(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	log, _, _ := openRecords(t, path)
	for i := range 3 {
		if err := log.append(fmt.Appendf(nil, "record %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

func TestRecordsOutliveTheProcess(t *testing.T) {
	path, content := written(t)
	log, got, dropped := openRecords(t, path)
	if diff := cmp.Diff([]string{"record 0", "record 1", "record 2"}, got); diff != "" || dropped != 0 {
		t.Errorf("dropped %d: %s", dropped, diff)
	}
	if log.size != int64(len(content)) {
		t.Errorf("size %d, want %d", log.size, len(content))
	}
	if err := log.append([]byte("record 3")); err != nil {
		t.Fatal(err)
	}
	if err := log.rewrite([][]byte{[]byte("only")}); err != nil {
		t.Fatal(err)
	}
	if err := log.append([]byte("and another")); err != nil {
		t.Fatal(err)
	}
	log.close()
	if _, got, _ := openRecords(t, path); !cmp.Equal(got, []string{"only", "and another"}) {
		t.Errorf("after Rewrite: %q", got)
	}
}

// Wherever a file ends and whichever byte is wrong, opening it drops what is
// torn and keeps what stands before.
func TestATornTailIsDropped(t *testing.T) {
	path, content := written(t)
	header := len(fmt.Sprintf("%s%d\n", magic, 1))
	all := []string{"record 0", "record 1", "record 2"}
	frame := frameHeader + len(all[0])
	check := func(name string, damaged []byte, whole int) {
		t.Helper()
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		log, got, dropped := openRecords(t, path)
		if len(got) != whole || !cmp.Equal(got, all[:whole:whole][:len(got)]) && whole > 0 {
			t.Errorf("%s: %q, want %d records", name, got, whole)
		}
		if want := int64(len(damaged) - header - whole*frame); dropped != want {
			t.Errorf("%s: dropped %d bytes, want %d", name, dropped, want)
		}
		if err := log.append([]byte("new")); err != nil {
			t.Fatal(err)
		}
		log.close()
		log, got, _ = openRecords(t, path)
		if len(got) != whole+1 || got[whole] != "new" {
			t.Errorf("%s: what is appended afterwards is lost: %q", name, got)
		}
		log.close()
	}
	for end := header; end < len(content); end++ {
		check(fmt.Sprintf("cut at %d", end), content[:end], (end-header)/frame)
	}
	for at := header; at < len(content); at++ {
		damaged := []byte(string(content))
		damaged[at] ^= 0x40
		check(fmt.Sprintf("bit at %d", at), damaged, (at-header)/frame)
	}
}

func TestAFileOfAnotherVersionIsRefusedAndLeftAsItIs(t *testing.T) {
	for name, content := range map[string]string{
		"another version": magic + "2\nwhatever",
		"no record log":   "#!/bin/sh\n",
		"a torn header":   magic[:5],
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, _, err := openLog(path, 1)
		if !errors.Is(err, errVersion) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); string(after) != content {
			t.Errorf("%s: the file is now %q", name, after)
		}
	}
}

func TestAnEmptyFileIsANewOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, got, dropped := openRecords(t, path); len(got) != 0 || dropped != 0 {
		t.Errorf("%q, dropped %d", got, dropped)
	}
}

func TestTwoProcessesCannotShareAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	openRecords(t, path)
	if _, _, _, err := openLog(path, 1); !errors.Is(err, errInUse) {
		t.Errorf("a second Open: %v", err)
	}
}

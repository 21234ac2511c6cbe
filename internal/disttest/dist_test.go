//go:build dist

// Package disttest looks at what `make dist` has built. Its tests need that, and so have a tag of their own.
package disttest

import (
	"archive/tar"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const folder = "../../dist"

func TestBinaries(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			file := filepath.Join(folder, "ops-worker-linux-"+arch)
			binary, err := elf.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer binary.Close()
			if binary.Machine != machine {
				t.Errorf("built for %s", binary.Machine)
			}
			for _, program := range binary.Progs {
				if program.Type == elf.PT_INTERP || program.Type == elf.PT_DYNAMIC {
					t.Errorf("not static: it has %s", program.Type)
				}
			}
			if arch != runtime.GOARCH {
				return
			}
			output, err := exec.CommandContext(t.Context(), file, "version", "--json").Output()
			if err != nil {
				t.Fatal(err)
			}
			var version struct{ Version, Commit, Built, Platform string }
			if err := json.Unmarshal(output, &version); err != nil {
				t.Fatalf("%v in %s", err, output)
			}
			if version.Platform != "linux/"+arch || version.Version == "dev" || version.Commit == "unknown" || version.Built == "unknown" {
				t.Errorf("not stamped: %+v", version)
			}
		})
	}
}

// An SBOM names the modules that the binary says are linked into it, and the standard library, and no others.
func TestSBOMs(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			file := filepath.Join(folder, "ops-worker-linux-"+arch)
			info, err := buildinfo.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file + ".cdx.json")
			if err != nil {
				t.Fatal(err)
			}
			var sbom struct {
				BOMFormat, SerialNumber string
				Metadata                struct{ Timestamp string }
				Components              []struct{ Name, Version string }
			}
			if err := json.Unmarshal(text, &sbom); err != nil {
				t.Fatal(err)
			}
			if sbom.BOMFormat != "CycloneDX" || sbom.SerialNumber != "" || sbom.Metadata.Timestamp != "" {
				t.Errorf("format %q, serial number %q, time %q", sbom.BOMFormat, sbom.SerialNumber, sbom.Metadata.Timestamp)
			}
			linked := map[string]string{"std": info.GoVersion}
			for _, module := range info.Deps {
				linked[module.Path] = module.Version
			}
			if linked["github.com/jackc/pgx/v5"] == "" {
				t.Error("the binary has no pgx")
			}
			for _, c := range sbom.Components {
				if linked[c.Name] != c.Version {
					t.Errorf("%s %s is listed, and linked is %q", c.Name, c.Version, linked[c.Name])
				}
				delete(linked, c.Name)
			}
			for name := range linked {
				t.Errorf("%s is linked and not listed", name)
			}
		})
	}
}

func TestManualPagesAndCompletions(t *testing.T) {
	file, err := os.Open(filepath.Join(folder, "ops-worker-share.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if !packed.ModTime.IsZero() || packed.Name != "" {
		t.Errorf("gzip notes %q of %s", packed.Name, packed.ModTime)
	}
	missing := map[string]string{
		"share/man/man1/ops-worker.1":                     ".TH",
		"share/bash-completion/completions/ops-worker":    "bash completion",
		"share/zsh/site-functions/_ops-worker":            "#compdef ops-worker",
		"share/fish/vendor_completions.d/ops-worker.fish": "fish completion",
	}
	archive := tar.NewReader(packed)
	for before := ""; ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), missing[header.Name]) {
			delete(missing, header.Name)
		}
		if header.Uid != 0 || header.Gid != 0 || header.Name < before {
			t.Errorf("%s: owner %d:%d, after %s", header.Name, header.Uid, header.Gid, before)
		}
		before = header.Name
	}
	for name := range missing {
		t.Errorf("%s is missing, or something else", name)
	}
}

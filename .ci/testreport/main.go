// Command testreport reads the output of `go test -json`, shows the result of each package and the output of what
// failed, and ends with a line such as "passed 214, failed 0, skipped 0". Every test and subtest counts, and so does a
// package that fails without a failing test: one that does not compile, or that leaks. It exits 1 if anything failed, or
// if nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is what `go doc test2json` describes.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output, in the place of Package
	Test       string
	Elapsed    float64
	Output     string
}

// report is what has been read so far.
type report struct {
	passed, failed, skipped int

	output map[string]*strings.Builder // by package, or package and test
	broken map[string]bool             // packages of which a test has failed
}

func main() {
	r := &report{output: map[string]*strings.Builder{}, broken: map[string]bool{}}
	if err := r.read(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	fmt.Printf("passed %d, failed %d, skipped %d\n", r.passed, r.failed, r.skipped)
	if r.failed > 0 || r.passed == 0 {
		os.Exit(1)
	}
}

func (r *report) read(from io.Reader, to io.Writer) error {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				r.add(e, to)
			} else if _, err := to.Write(line); err != nil { // what stands around the tests, such as make's own lines
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) add(e event, to io.Writer) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
		return
	case "build-output":
		fmt.Fprint(to, e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}

	if e.Test == "" {
		if e.Action == "skip" { // a package without test files
			return
		}
		fmt.Fprintf(to, "%-5s %s (%.1f s)\n", e.Action, e.Package, e.Elapsed)
		if e.Action == "fail" {
			fmt.Fprint(to, r.output[key])
			if !r.broken[e.Package] {
				r.failed++
			}
		}
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
		fmt.Fprintf(to, "skip  %s %s\n%s", e.Package, e.Test, r.output[key])
	case "fail":
		r.failed++
		r.broken[e.Package] = true
		fmt.Fprintf(to, "FAIL  %s %s\n%s", e.Package, e.Test, r.output[key])
	}
	delete(r.output, key)
}

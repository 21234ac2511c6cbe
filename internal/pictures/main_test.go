package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestDraw(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := draw(&out, strings.NewReader("\x1b[1mSERVICE\x1b[0m  STATE\r\n<ingest>  \x1b[1;31mdown\x1b[0m  ▁▂█\n\x1b"), "a & b"); err != nil {
		t.Fatal(err)
	}
	svg := out.String()
	for _, want := range []string{
		"<title>a &amp; b</title>",
		`<text x="20.0" y="35" textLength="58.8" lengthAdjust="spacingAndGlyphs" font-weight="bold">SERVICE</text>`,
		`<text x="95.6" y="35" textLength="42.0" lengthAdjust="spacingAndGlyphs">STATE</text>`,
		`>&lt;ingest&gt;</text>`,
		`font-weight="bold" fill="#ff7b72">down</text>`,
		`<text x="154.4" y="55" textLength="25.2" lengthAdjust="spacingAndGlyphs">▁▂█</text>`,
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("%s is not in\n%s", want, svg)
		}
	}
	decoder := xml.NewDecoder(strings.NewReader(svg))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

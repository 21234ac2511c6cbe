// Command pictures draws what a program has written to a terminal as an SVG:
//
//	pictures --title TEXT < terminal > picture.svg
//
// It knows what this repository's commands write: lines of text, and the styles of
// their SGR sequences. scripts/pictures.sh uses it.
package main

import (
	"bufio"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"
)

func main() {
	title := flag.String("title", "", "the `text` that stands for the picture where it cannot be seen")
	flag.Parse()
	if err := draw(os.Stdout, os.Stdin, *title); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

// The measures of a character and of the frame, in pixels.
const (
	fontSize   = 14
	charWidth  = 8.4
	lineHeight = 20
	margin     = 20
)

// The colours of the background, of text, and of the SGR parameters.
const (
	background = "#0d1117"
	foreground = "#d1d7e0"
)

var colours = map[int]string{31: "#ff7b72", 32: "#56d364", 33: "#e3b341", 35: "#d2a8ff", 36: "#76e3ea"}

// run is text of one style.
type run struct {
	column int
	text   string
	sgr    string
}

func draw(out io.Writer, in io.Reader, title string) error {
	var lines [][]run
	wide := 0
	scanner := bufio.NewScanner(in)
	for scanner.Scan() {
		runs, width := parse(strings.TrimRight(scanner.Text(), "\r"))
		lines, wide = append(lines, runs), max(wide, width)
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	width, height := 2*margin+float64(wide)*charWidth, 2*margin+len(lines)*lineHeight
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d" role="img">`+"\n", width, height, width, height)
	fmt.Fprintf(w, "<title>%s</title>\n", escape(title))
	fmt.Fprintf(w, `<rect width="100%%" height="100%%" rx="10" fill="%s"/>`+"\n", background)
	fmt.Fprintf(w, `<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="%d" fill="%s">`+"\n", fontSize, foreground)
	for i, runs := range lines {
		for _, r := range runs {
			// The length is given, since not every font has the bars as wide as letters.
			fmt.Fprintf(w, `<text x="%.1f" y="%d" textLength="%.1f" lengthAdjust="spacingAndGlyphs"%s>%s</text>`+"\n",
				margin+float64(r.column)*charWidth, margin+i*lineHeight+15, float64(utf8.RuneCountInString(r.text))*charWidth, attributes(r.sgr), escape(r.text))
		}
	}
	fmt.Fprintln(w, "</g>\n</svg>")
	return w.Flush()
}

// parse takes a line apart: into runs that no two spaces interrupt, so that columns
// stay where they are in any font.
func parse(text string) (runs []run, width int) {
	sgr := ""
	for text != "" {
		if sequence, ok := strings.CutPrefix(text, "\x1b["); ok {
			end := strings.IndexFunc(sequence, func(r rune) bool { return r >= '@' && r <= '~' })
			if end < 0 {
				break
			}
			if sequence[end] == 'm' {
				sgr = sequence[:end]
			}
			text = sequence[end+1:]
			continue
		}
		plain, _, _ := strings.Cut(text, "\x1b")
		if plain == "" { // a lone Esc
			text = text[1:]
			continue
		}
		text = text[len(plain):]
		for plain != "" {
			word := plain
			if gap := strings.Index(plain, "  "); gap == 0 {
				word = plain[:len(plain)-len(strings.TrimLeft(plain, " "))]
			} else if gap > 0 {
				word = plain[:gap]
			}
			if strings.TrimSpace(word) != "" {
				runs = append(runs, run{width, word, sgr})
			}
			width += utf8.RuneCountInString(word)
			plain = plain[len(word):]
		}
	}
	return runs, width
}

// attributes are the SVG's for SGR parameters.
func attributes(sgr string) string {
	var b strings.Builder
	for _, parameter := range strings.Split(sgr, ";") {
		n, _ := strconv.Atoi(parameter)
		switch {
		case n == 1:
			b.WriteString(` font-weight="bold"`)
		case n == 2:
			b.WriteString(` opacity="0.6"`)
		case colours[n] != "":
			fmt.Fprintf(&b, ` fill="%s"`, colours[n])
		}
	}
	return b.String()
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder never fails
	return b.String()
}

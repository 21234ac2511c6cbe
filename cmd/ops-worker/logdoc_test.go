package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logged are the messages of a program's own log lines, with whether one may be a
// warning or an error.
type logged map[string]bool

// logLines reads them off the source: the argument of a zerolog event's Msg, and
// the two texts of a fault. An event that is chosen before is taken for a warning.
func logLines(t *testing.T) logged {
	t.Helper()
	found := logged{}
	for _, pattern := range []string{"*.go", "../../collectors/*.go", "../../db/*.go", "../../internal/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		constants := map[string]string{} // of the package
		var calls []*ast.CallExpr
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ValueSpec:
					for i, value := range n.Values {
						if text, ok := literal(value); ok {
							constants[n.Names[i].Name] = text
						}
					}
				case *ast.CallExpr:
					calls = append(calls, n)
				}
				return true
			})
		}
		text := func(e ast.Expr) string {
			if name, ok := e.(*ast.Ident); ok {
				return constants[name.Name]
			}
			text, _ := literal(e)
			return text
		}
		for _, call := range calls {
			method, ok := call.Fun.(*ast.SelectorExpr)
			switch {
			case !ok:
			case method.Sel.Name == "Msg" && len(call.Args) == 1:
				if level := levelOf(method.X); level != "Debug" {
					found.add(text(call.Args[0]), level != "Info")
				}
			case method.Sel.Name == "Observe" && len(call.Args) == 4:
				found.add(text(call.Args[2]), true)
				found.add(text(call.Args[3]), true) // which stands beside it
			}
		}
	}
	delete(found, "")
	return found
}

func (l logged) add(message string, bad bool) { l[message] = l[message] || bad }

func literal(e ast.Expr) (string, bool) {
	basic, ok := e.(*ast.BasicLit)
	if !ok || basic.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(basic.Value)
	return text, err == nil
}

// levelOf is the level that an event was made with, "" where that is not seen.
func levelOf(e ast.Expr) string {
	for {
		call, ok := e.(*ast.CallExpr)
		if !ok {
			return ""
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return ""
		}
		if slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
			return method.Sel.Name
		}
		e = method.X
	}
}

// documented are the messages in the first column of a table.
func documented(t *testing.T, page, heading string) []string {
	t.Helper()
	_, section, found := strings.Cut(page, "\n### "+heading+"\n")
	if !found {
		t.Fatalf("there is no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	var messages []string
	for row := range strings.Lines(section) {
		cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " | ")
		cell, _, _ = strings.Cut(cell, " at level ")
		for i, message := range strings.Split(cell, "`") {
			if strings.HasPrefix(row, "| `") && i%2 == 1 && message != "msg" {
				messages = append(messages, message)
			}
		}
	}
	return messages
}

// docs/operation.md has every line that the worker may log, and none that it may
// not.
func TestTheOperationPageNamesWhatIsLogged(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	code := logLines(t)
	if len(code) < 40 {
		t.Fatalf("%d messages are found in the code", len(code))
	}
	bad, rest := documented(t, string(page), "Errors and warnings"), documented(t, string(page), "The rest")
	for message, isBad := range code {
		if isBad && !slices.Contains(bad, message) {
			// What is logged at a level that is chosen may be in the other table.
			if !slices.Contains(rest, message) {
				t.Errorf("the page does not say what to do about %q", message)
			}
		} else if !isBad && !slices.Contains(bad, message) && !slices.Contains(rest, message) {
			t.Errorf("the page does not have %q", message)
		}
	}
	for _, message := range slices.Concat(bad, rest) {
		if _, isLogged := code[message]; !isLogged {
			t.Errorf("nothing logs %q", message)
		}
	}
}

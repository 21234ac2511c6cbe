package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want int
		says string
	}{
		"help":         {[]string{"--help"}, 0, "-listen"},
		"no service":   {nil, 2, "ingest"},
		"unknown":      {[]string{"mainframe"}, 2, "mainframe"},
		"two services": {[]string{"ingest", "evaluator"}, 2, "name one service"},
		"unknown flag": {[]string{"--frob", "ingest"}, 2, "frob"},
		"bad address":  {[]string{"--listen", "nowhere", "ingest"}, 1, "listen"},
		"bad URL":      {[]string{"--check", "://"}, 1, "ask the service"},
		"no such file": {[]string{"process", "/nowhere/main.py"}, 1, "no such file"},
		"no job":       {[]string{"process", "main_test.go"}, 1, "starts nothing"},
		"no number":    {[]string{"migrator", "many"}, 1, "files"},
		"nobody there": {[]string{"--check", "http://127.0.0.1:1/health"}, 1, "ask the service"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var output bytes.Buffer
			if got := run(t.Context(), test.args, &output); got != test.want {
				t.Errorf("status %d, want %d", got, test.want)
			}
			if !strings.Contains(output.String(), test.says) {
				t.Errorf("output %q does not mention %q", &output, test.says)
			}
		})
	}
}

func TestServesUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"--listen", "127.0.0.1:0", "evaluator"}, writer)
		writer.Close()
	}()
	line := make([]byte, 200)
	n, err := reader.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address, found := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "platform-sim: evaluator listens on ")
	if !found {
		t.Fatalf("said %q", line[:n])
	}
	if got := run(t.Context(), []string{"--check", "http://" + address + "/health"}, t.Output()); got != 0 {
		t.Errorf("its own check exits %d", got)
	}
	cancel()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d", got)
	}
}

func TestCheckOfAnUnhealthyService(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	if got := run(t.Context(), []string{"--check", server.URL}, t.Output()); got != 1 {
		t.Errorf("exit status %d, want 1", got)
	}
}

package faultlog_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ops_worker/internal/faultlog"
	"ops_worker/internal/logtest"
)

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"as it is":               "as it is",
		"a\x00b\nc":              "a b c",
		"bad \xff\xfe":           "bad ?",
		strings.Repeat("é", 200): strings.Repeat("é", 100) + "…",
	} {
		if got := faultlog.PlainText(in); got != want {
			t.Errorf("PlainText(%q) = %q, want %q", in, got, want)
		}
	}
}

// A fault that lasts, and one that comes and goes, is a line at its begin, one a
// minute, and one when it has been quiet for a minute.
func TestAFaultIsLimitedAndNotAStreak(t *testing.T) {
	for name, flapping := range map[string]bool{"lasting": false, "flapping": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lines logtest.Log
				var faults faultlog.Log
				for i := range 600 { // ten minutes, of which five are bad
					var err error
					if i < 300 && (!flapping || i%2 == 0) {
						err = errors.New("bad")
					}
					faults.Observe(lines.Logger(), err, "it is bad", "it is well")
					<-time.After(time.Second)
				}
				if n := len(lines.Lines(t, "it is bad")); n != 5 {
					t.Errorf("%d lines say that it is bad, want 5", n)
				}
				well := lines.Lines(t, "it is well")
				if len(well) != 1 || well[0]["lasted_ms"].(float64) > 300_000 {
					t.Errorf("lines that say that it is over: %v", well)
				}
			})
		})
	}
}

func TestAnErrorIsOneLineThatSaysNothingTwice(t *testing.T) {
	err := errors.New("failed to connect to `user=iot database=iotcloud`:\n\t127.0.0.1:1 (a): refused\n\t127.0.0.1:1 (a): refused\n\t[::1]:1 (a): refused")
	const want = "failed to connect to `user=iot database=iotcloud`: 127.0.0.1:1 (a): refused; [::1]:1 (a): refused"
	if got := faultlog.ErrorText(err); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

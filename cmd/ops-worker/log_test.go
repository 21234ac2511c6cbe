package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"ops_worker/internal/config"
	"ops_worker/internal/logtest"
)

// The levels have the words that the platform's own services log and filter by, the same
// that LOG_LEVEL takes.
func TestLevelsInThePlatformsWords(t *testing.T) {
	for word, level := range map[string]zerolog.Level{
		"DEBUG": zerolog.DebugLevel, "INFO": zerolog.InfoLevel, "WARNING": zerolog.WarnLevel, "ERROR": zerolog.ErrorLevel, "CRITICAL": zerolog.FatalLevel,
	} {
		cfg, err := config.FromEnvironment([]string{"PG_PASS=x", "LOG_LEVEL=" + word, "LOG_FORMAT=json"})
		if err != nil {
			t.Fatal(err)
		}
		var log logtest.Log
		logger := newLogger(cfg, &log)
		logger.WithLevel(level).Msg("as it is")
		var line struct{ Level string }
		if err := json.Unmarshal([]byte(log.String()), &line); err != nil || line.Level != word {
			t.Errorf("%s: %s", word, log.String())
		}
		var people logtest.Log
		cfg.LogFormat = "console"
		logger = newLogger(cfg, formatted(cfg, &people))
		logger.WithLevel(level).Msg("as it is")
		if !strings.Contains(people.String(), zerolog.FormattedLevels[level]) {
			t.Errorf("%s for people: %s", word, people.String())
		}
		if strings.Contains(people.String(), "\x1b") {
			t.Errorf("%s for people has escape codes where no terminal shows them: %q", word, people.String())
		}
	}
}

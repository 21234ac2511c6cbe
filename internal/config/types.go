package config

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// The types of the settings. Their errors never quote the value: it may be a
// secret that was put into the wrong variable.

// seconds is a duration: a whole number of seconds, a Go duration, or days (7d).
type seconds time.Duration

var errSeconds = errors.New("must be a number of seconds or a duration like 30s, 5m or 7d")

func (s *seconds) UnmarshalText(text []byte) error {
	value := string(text)
	unit := time.Second
	if days, ok := strings.CutSuffix(value, "d"); ok {
		value, unit = days, 24*time.Hour
	}
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		if n < 0 || n > int64(maxDuration/unit) {
			return errSeconds
		}
		*s = seconds(time.Duration(n) * unit)
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 || d > maxDuration {
		return errSeconds
	}
	*s = seconds(d)
	return nil
}

// maxDuration keeps sums of settings far from overflow: ten years.
const maxDuration = 10 * 365 * 24 * time.Hour

// count is a whole number, zero or more.
type count int

func (c *count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil || n < 0 {
		return errors.New("must be a whole number")
	}
	*c = count(n)
	return nil
}

// flag is a truth value in the words that the platform's other services take.
type flag bool

func (f *flag) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "true", "1", "yes", "on":
		*f = true
	case "false", "0", "no", "off":
		*f = false
	default:
		return errors.New("must be true or false (or 1, yes, on, 0, no, off)")
	}
	return nil
}

// level is a log level by its zerolog or its Python name.
type level zerolog.Level

func (l *level) UnmarshalText(text []byte) error {
	name := strings.ToLower(string(text))
	switch name {
	case "warning":
		name = "warn"
	case "critical":
		name = "fatal"
	}
	parsed, err := zerolog.ParseLevel(name)
	if err != nil || parsed == zerolog.NoLevel {
		return errors.New("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
	}
	*l = level(parsed)
	return nil
}

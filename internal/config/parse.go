package config

import (
	"cmp"
	"errors"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/rs/zerolog"
)

// parsers are the library's hooks for the types of the settings. Their errors
// never quote the value: it may be a secret that was put into the wrong
// variable.
var parsers = map[reflect.Type]env.ParserFunc{
	reflect.TypeFor[time.Duration](): func(text string) (any, error) { return ParseDuration(text) },
	reflect.TypeFor[int]():           parseCount,
	reflect.TypeFor[bool]():          parseBool,
	reflect.TypeFor[Percent]():       parsePercent,
}

var errDuration = errors.New("must be a number of seconds or a duration like 30s, 5m or 7d")

// maxDuration keeps sums of settings far from overflow: ten years.
const maxDuration = 10 * 365 * 24 * time.Hour

// pattern compiles a regular expression when it is first used: healthcheck needs none.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

var plainNumber = pattern(`^[0-9]+(\.[0-9]+)?$`)

// ParseDuration takes what the settings do: seconds, a Go duration, or days (7d).
func ParseDuration(text string) (time.Duration, error) {
	number, unit := text, time.Second
	if days, ok := strings.CutSuffix(text, "d"); ok {
		number, unit = days, 24*time.Hour
	}
	if plainNumber().MatchString(number) {
		n, err := strconv.ParseFloat(number, 64)
		if err != nil || n > float64(maxDuration/unit) {
			return 0, errDuration
		}
		return time.Duration(n * float64(unit)).Round(time.Microsecond), nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > maxDuration {
		return 0, errDuration
	}
	return d, nil
}

func parseCount(text string) (any, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return nil, errors.New("must be a whole number")
	}
	return int(n), nil
}

// Percent is a share of a hundred.
type Percent float64

// Share is the same of one.
func (p Percent) Share() float64 { return float64(p) / 100 }

// parsePercent takes a number, with a percent sign or without.
func parsePercent(text string) (any, error) {
	number := strings.TrimSpace(strings.TrimSuffix(text, "%"))
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !plainNumber().MatchString(number) {
		return nil, errors.New("must be a percentage like 2% or 0.5%")
	}
	return Percent(n), nil
}

// parseBool takes the words that the platform's other services take.
func parseBool(text string) (any, error) {
	switch strings.ToLower(text) {
	case "true", "1", "yes", "on":
		return true, nil
	case "false", "0", "no", "off":
		return false, nil
	}
	return nil, errors.New("must be true or false (or 1, yes, on, 0, no, off)")
}

// Level is a log level, by its zerolog or its Python name.
type Level zerolog.Level

// levels are the names that are taken. Numbers are not: zerolog's are others than
// Python's.
var levels = map[string]zerolog.Level{
	"debug": zerolog.DebugLevel, "info": zerolog.InfoLevel, "warning": zerolog.WarnLevel, "warn": zerolog.WarnLevel,
	"error": zerolog.ErrorLevel, "critical": zerolog.FatalLevel, "fatal": zerolog.FatalLevel,
}

// UnmarshalText is the library's other hook: zerolog's own would win over a
// parser.
func (l *Level) UnmarshalText(text []byte) error {
	level, ok := levels[strings.ToLower(string(text))]
	if !ok {
		return errors.New("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
	}
	*l = Level(level)
	return nil
}

func isHTTP(value string) bool {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return false
	}
	_, err = strconv.ParseUint(cmp.Or(u.Port(), "80"), 10, 16)
	return err == nil
}

// isHostPort takes host:port, with an IPv6 address in brackets. An address to listen at may
// do without the host, and have the port 0.
func isHostPort(value string, toListen bool) bool {
	host, number, err := net.SplitHostPort(value)
	port, numberErr := strconv.ParseUint(number, 10, 16)
	return err == nil && numberErr == nil && !strings.ContainsAny(host, "/@?# ") && (toListen || host != "" && port != 0)
}

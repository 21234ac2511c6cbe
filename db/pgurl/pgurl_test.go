package pgurl

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://iot:hunter2@db:6432/iotcloud":                   "",
		"postgresql://iot@/iotcloud?host=%2Fvar%2Frun%2Fpostgresql": "",
		"postgres://a@one:1,two:2/d?target_session_attrs=primary":   "",
		"postgres://a@b/c?sslmode=disable&pool_max_conns=3":         "",
		"mysql://a:hunter2@b/c":                                     errScheme.Error(),
		"hunter2":                                                   errScheme.Error(),
		"postgres://a:hun@ter2@b/c":                                 ErrInvalid.Error(),
		"postgres://a:hunter2/x@b/c":                                ErrInvalid.Error(),
		"postgres://a:hunter2#x@b/c":                                ErrInvalid.Error(),
		"postgres://a:%zzhunter2@b/c":                               ErrInvalid.Error(),
		"postgres://a@b:hunter2/c":                                  ErrInvalid.Error(),
		"postgres://a@b/c?pool_max_conns=hunter2":                   ErrInvalid.Error(),
		"postgres://a@b/c?sslmode=hunter2":                          "the parameter sslmode " + parameters["sslmode"],
		"postgres://a@b/c?sslcert=/hunter2":                         "the parameter sslcert " + parameters["sslcert"],
		"postgres://a@b/c?sslmode=x&connect_timeout=x":              "the parameter connect_timeout " + parameters["connect_timeout"] + "; the parameter sslmode " + parameters["sslmode"],
	} {
		got := ""
		if err := Check(text); err != nil {
			got = err.Error()
		}
		if got != want || strings.Contains(got, "hunter2") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestAVariableOfTheDriverIsNoFaultOfTheURL(t *testing.T) {
	t.Setenv("PGSSLMODE", "hunter2")
	if err := Check("postgres://iot@db/iotcloud"); err != errDriverVariable {
		t.Errorf("%v", err)
	}
}

// Package pgurl reads the URL of a database. Its errors quote no part of the URL: if the
// password has an unescaped character, any part may be a piece of the password.
package pgurl

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	// ErrInvalid is returned if no better explanation is known.
	ErrInvalid = errors.New("not a valid postgres:// URL (characters like @ : / # ? % in a user name or password must be percent-encoded)")

	errScheme         = errors.New("must start with postgres:// or postgresql://")
	errDriverVariable = errors.New("it is well-formed, and one of the variables that the driver reads itself is not " +
		"(PGSSLMODE, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, PGCONNECT_TIMEOUT, PGTARGETSESSIONATTRS)")
)

// parameters says what the values of a URL's parameters must be.
var parameters = map[string]string{
	"sslmode":              "must be disable, allow, prefer, require, verify-ca or verify-full",
	"sslrootcert":          "must be a file with certificates that can be read",
	"sslcert":              "must be a file with a certificate that can be read, and goes with sslkey",
	"sslkey":               "must be a file with the certificate's key that can be read, and goes with sslcert",
	"sslnegotiation":       "must be postgres or direct",
	"connect_timeout":      "must be a whole number of seconds",
	"target_session_attrs": "must be any, read-write, read-only, primary, standby or prefer-standby",
	"channel_binding":      "must be disable, prefer or require",
}

// Check says what is wrong with a URL that a person has written.
func Check(text string) error {
	_, rest, _ := strings.Cut(text, "://")
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") {
		return errScheme
	}
	// If a password has an unescaped character, the parser takes a part of it for the
	// host, port or database, which are shown. In a well-formed URL there is no second
	// @ and no #, and no / or ? before the @.
	user, _, hasUser := strings.Cut(rest, "@")
	if strings.Count(rest, "@") > 1 || strings.Contains(rest, "#") || hasUser && strings.ContainsAny(user, "/?") {
		return ErrInvalid
	}
	_, err := Parse(text)
	return err
}

// Parse returns the configuration for a URL.
func Parse(text string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(text)
	if err != nil { // pgx's own message quotes parts of the URL
		return nil, explain(text)
	}
	return config, nil
}

// explain says what is wrong with a URL that pgx refuses.
func explain(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return ErrInvalid
	}
	given := u.Query()
	refused := func(parameters url.Values) bool {
		with := *u
		with.RawQuery = parameters.Encode()
		_, err := pgxpool.ParseConfig(with.String())
		return err != nil
	}
	if refused(nil) { // even without parameters
		if _, err := pgxpool.ParseConfig("postgres://localhost/"); err != nil {
			return errDriverVariable
		}
		return ErrInvalid
	}
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		alone := url.Values{name: given[name]}
		if name == "sslcert" || name == "sslkey" { // each requires the other
			alone = url.Values{"sslcert": given["sslcert"], "sslkey": given["sslkey"]}
		}
		if given.Has(name) && refused(alone) {
			wrong = append(wrong, "the parameter "+name+" "+parameters[name])
		}
	}
	if len(wrong) == 0 {
		return ErrInvalid
	}
	return errors.New(strings.Join(wrong, "; "))
}

package config

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ops_worker/db/pgurl"
)

// Database says where the database is and how to reach it.
type Database struct {
	// URL wins over the five below it, and is made of them where it is unset.
	// It holds the password.
	URL      string `env:"DATABASE_URL"`
	Host     string `env:"PG_HOST" envDefault:"iot-postgres"`
	Port     int    `env:"PG_PORT" envDefault:"5432"`
	Name     string `env:"PG_DB" envDefault:"iotcloud"`
	User     string `env:"PG_USER" envDefault:"iot"`
	Password string `env:"PG_PASS"`
	// URLFile and PasswordFile hold what URL and Password would, and are read anew
	// for every connection.
	URLFile      string `env:"DATABASE_URL_FILE"`
	PasswordFile string `env:"PG_PASS_FILE"`

	MinConns       int           `env:"PG_POOL_MIN" envDefault:"2"`
	MaxConns       int           `env:"PG_POOL_MAX" envDefault:"10"`
	ConnectTimeout time.Duration `env:"DB_CONNECT_TIMEOUT" envDefault:"10"`
	// NotifyURL is set by the platform, and not used: nothing here needs a session.
	NotifyURL string `env:"NOTIFY_DATABASE_URL"`
}

// complete checks the settings and makes URL of the others where it is unset.
func (d *Database) complete(set map[string]string, p *problems) {
	if _, chosen := set["PG_POOL_MIN"]; !chosen {
		d.MinConns = min(d.MinConns, d.MaxConns)
	}
	p.check("PG_PORT", isPort(d.Port), notAPort)
	p.check("PG_POOL_MAX", d.MaxConns >= 1 && d.MaxConns <= 1000, "must be between 1 and 1000")
	p.check("PG_POOL_MIN", d.MinConns <= d.MaxConns || d.MaxConns < 1, "must be between 0 and PG_POOL_MAX")
	p.check("DB_CONNECT_TIMEOUT", d.ConnectTimeout > 0, "must be longer than 0")
	d.URL = p.orFile("DATABASE_URL", d.URL, d.URLFile, readURL)
	if d.URL != "" || d.URLFile != "" {
		d.PasswordFile = "" // nor does it take part where the address is read anew
		if d.URLFile == "" {
			p.addError("DATABASE_URL", pgurl.Check(d.URL))
		}
		return
	}
	d.Password = p.orFile("PG_PASS", d.Password, d.PasswordFile, readPassword)
	if !strings.HasPrefix(d.Host, "/") {
		p.checkHost("PG_HOST", d.Host, "PG_PORT")
	}
	d.URL = d.address()
	_, err := pgurl.Parse(d.URL)
	p.check("PG_HOST", err == nil || !isPort(d.Port), "PG_HOST, PG_DB and PG_USER do not make a valid address")
}

// address is the URL that the single settings make.
func (d *Database) address() string {
	u := url.URL{
		Scheme: "postgresql",
		Host:   net.JoinHostPort(d.Host, strconv.Itoa(d.Port)),
		Path:   "/" + d.Name,
		User:   url.User(d.User),
	}
	if strings.HasPrefix(d.Host, "/") { // the directory of a Unix socket
		u.Host, u.RawQuery = "", url.Values{"host": {d.Host}, "port": {strconv.Itoa(d.Port)}}.Encode()
	}
	if d.Password != "" {
		u.User = url.UserPassword(d.User, d.Password)
	}
	return u.String()
}

// Reload reads the URL anew; it is nil where no file holds the URL or its password. What
// stands in a file that was well at the start may be anything.
func (d Database) Reload() func() (string, error) {
	switch {
	case d.URLFile != "":
		return func() (string, error) {
			address, err := readURL(d.URLFile)
			if err != nil {
				return "", fmt.Errorf("DATABASE_URL_FILE: %w", err)
			}
			return address, nil
		}
	case d.PasswordFile != "":
		return func() (string, error) {
			password, err := readPassword(d.PasswordFile)
			if err != nil {
				return "", fmt.Errorf("PG_PASS_FILE: %w", err)
			}
			now := d
			now.Password = password
			return now.address(), nil
		}
	}
	return nil
}

func readURL(file string) (string, error) {
	content, err := readFile(file)
	if err != nil {
		return "", err
	}
	address := strings.TrimSpace(content)
	return address, pgurl.Check(address)
}

// readPassword reads a password, which may have blanks at its ends, but not the end
// of the line.
func readPassword(file string) (string, error) {
	content, err := readFile(file)
	return strings.TrimRight(content, "\r\n"), err
}

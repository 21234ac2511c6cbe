package config

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxFile bounds a file that a setting names: a database's URL and a list of
// services are far below it.
const maxFile = 1 << 20

// readFile reads a file that a setting names. Its error does not quote the name:
// somebody may have put the secret itself there.
func readFile(name string) ([]byte, error) {
	file, err := os.Open(filepath.Clean(name))
	if err != nil {
		return nil, errors.New("the file cannot be read: " + plainCause(err))
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return nil, errors.New("the file cannot be read: " + plainCause(err))
	case len(content) > maxFile:
		return nil, errors.New("the file is longer than 1 MiB")
	case len(bytes.TrimSpace(content)) == 0:
		return nil, errors.New("the file is empty")
	}
	return content, nil
}

// plainCause is an error of a file without the file's name.
func plainCause(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// What stands in a file: a URL between blanks, a password that may have some, but
// for the end of the line, or a list of services of which each may have a line.
func readURL(content []byte) string      { return string(bytes.TrimSpace(content)) }
func readPassword(content []byte) string { return strings.TrimRight(string(content), "\r\n") }
func readLines(content []byte) string {
	lines := strings.FieldsFunc(string(content), func(r rune) bool { return r == '\n' || r == '\r' })
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, ",")
}

// orFile is the value of a setting, or what the file holds that NAME_FILE names.
func (p *problems) orFile(name, value, file string, read func([]byte) string) string {
	if file == "" {
		return value
	}
	if value != "" {
		p.add(name+"_FILE", "goes without %s: only one of the two can hold", name)
		return value
	}
	content, err := readFile(file)
	if err != nil {
		p.add(name+"_FILE", "%v", err)
		return ""
	}
	return read(content)
}

// certificates reads a file of PEM certificates, which come besides the system's.
func (p *problems) certificates(name, file string) *x509.CertPool {
	content, err := readFile(file)
	if err != nil {
		p.add(name, "%v", err)
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // an image may have none
	}
	if !pool.AppendCertsFromPEM(content) {
		p.add(name, "the file holds no certificate in PEM")
	}
	return pool
}

// reload reads the address anew where a file holds it or its password; nil where
// none does.
func (d Database) reload() func() (string, error) {
	switch {
	case d.URLFile != "":
		return reloadURL("DATABASE_URL", d.URLFile)
	case d.PasswordFile != "":
		return func() (string, error) {
			content, err := readFile(d.PasswordFile)
			if err != nil {
				return "", fmt.Errorf("PG_PASS_FILE: %w", err)
			}
			now := d
			now.Password = readPassword(content)
			return now.address(), nil
		}
	}
	return nil
}

// reloadURL reads a file that was well at the start: what stands there now may be
// anything.
func reloadURL(name, file string) func() (string, error) {
	return func() (string, error) {
		content, err := readFile(file)
		if err != nil {
			return "", fmt.Errorf("%s_FILE: %w", name, err)
		}
		var p problems
		address := readURL(content)
		checkDatabaseURL(&p, name+"_FILE", address)
		if len(p.lines) > 0 {
			return "", errors.New(p.lines[0])
		}
		return address, nil
	}
}

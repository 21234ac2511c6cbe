package config

import (
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
func readFile(name string) (string, error) {
	file, err := os.Open(filepath.Clean(name))
	if err != nil {
		return "", unreadable(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	switch {
	case err != nil:
		return "", unreadable(err)
	case len(content) > maxFile:
		return "", errors.New("the file is longer than 1 MiB")
	case strings.TrimSpace(string(content)) == "":
		return "", errors.New("the file is empty")
	}
	return string(content), nil
}

// unreadable is an error of a file without the file's name.
func unreadable(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err
	}
	return fmt.Errorf("the file cannot be read: %w", err)
}

// readServices reads a list of services, of which each may have a line.
func readServices(file string) (string, error) {
	content, err := readFile(file)
	lines := strings.FieldsFunc(content, func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines, ","), err
}

func readTrimmed(file string) (string, error) {
	content, err := readFile(file)
	return strings.TrimSpace(content), err
}

// orFile is the value of a setting, or what the file holds that NAME_FILE names.
func (p *problems) orFile(name, value, file string, read func(file string) (string, error)) string {
	if file == "" {
		return value
	}
	if value != "" {
		p.add(name+"_FILE", "goes without %s: only one of the two can hold", name)
		return value
	}
	value, err := read(file)
	p.addError(name+"_FILE", err)
	return value
}

// certificates reads a file of PEM certificates, which come besides the system's.
func (p *problems) certificates(name, file string) *x509.CertPool {
	content, err := readFile(file)
	if err != nil {
		p.addError(name, err)
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // an image may have none
	}
	if !pool.AppendCertsFromPEM([]byte(content)) {
		p.add(name, "the file holds no certificate in PEM")
	}
	return pool
}

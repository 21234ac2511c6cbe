package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"strconv"
	"sync"
)

// maxCounters is how many counters of an answer are kept, besides those that the
// table of services names.
const maxCounters = 64

var counterName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,63}$`) })

// byteOrderMark begins the answers of some services; JSON does not know it.
var byteOrderMark = []byte("\xef\xbb\xbf")

// parseCounters reads the numeric counters of a health answer: those that
// named selects, and the first 64 others that may be stored. It fails only where body is no
// JSON; an answer of another shape has no counters. The others that may not be
// stored are counted: no finite number, no proper name, or one too many.
// It reads token by token, so that an answer costs what is kept of it.
func parseCounters(body []byte, named func(string) bool) (counters map[string]float64, leftOut int, err error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if !json.Valid(body) {
		return nil, 0, errors.New("no JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if !enterObject(dec) {
		return nil, 0, nil
	}
	c := counterReader{named: named, counters: map[string]float64{}}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, 0, err
		}
		if key != "counters" {
			if err := skipValue(dec); err != nil {
				return nil, 0, err
			}
			continue
		}
		if !enterObject(dec) {
			return nil, 0, nil
		}
		if err := c.read(dec); err != nil {
			return nil, 0, err
		}
	}
	return c.counters, c.leftOut, nil
}

// counterReader gathers the counters that may be stored.
type counterReader struct {
	named           func(string) bool
	counters        map[string]float64
	others, leftOut int
}

// read reads an object of counters to its end.
func (c *counterReader) read(dec *json.Decoder) error {
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		name, _ := key.(string)
		c.add(name, string(raw))
	}
	_, err := dec.Token()
	return err
}

func (c *counterReader) add(name, text string) {
	value, err := strconv.ParseFloat(text, 64)
	_, seen := c.counters[name]
	kept := seen || c.named(name)
	if err != nil || math.IsInf(value, 0) || !counterName().MatchString(name) || (!kept && c.others == maxCounters) {
		c.leftOut++
		return
	}
	if !kept {
		c.others++
	}
	c.counters[name] = value
}

// enterObject reads the next token and reports whether it opens an object.
func enterObject(dec *json.Decoder) bool {
	token, err := dec.Token()
	return err == nil && token == json.Delim('{')
}

func skipValue(dec *json.Decoder) error {
	var skipped json.RawMessage
	return dec.Decode(&skipped)
}

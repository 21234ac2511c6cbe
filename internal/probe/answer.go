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

// parseCounters reads the numeric counters of a health answer: those that named
// selects, and the first 64 others that may be stored. The others are counted: no
// finite number, no proper name, or one too many. It fails only where body is no JSON;
// an answer of another shape has no counters.
func parseCounters(body []byte, named func(string) bool) (counters map[string]float64, leftOut int, err error) {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if !json.Valid(body) {
		return nil, 0, errors.New("no JSON")
	}
	var answer struct {
		Counters counterReader `json:"counters"`
	}
	answer.Counters = counterReader{named: named, counters: map[string]float64{}}
	if json.Unmarshal(body, &answer) != nil {
		return nil, 0, nil
	}
	return answer.Counters.counters, answer.Counters.leftOut, nil
}

// counterReader gathers the counters that may be stored, one after the other, so that
// an answer costs what is kept of it.
type counterReader struct {
	named           func(string) bool
	counters        map[string]float64
	others, leftOut int
}

// UnmarshalJSON reads an object of counters.
func (c *counterReader) UnmarshalJSON(object []byte) error {
	dec := json.NewDecoder(bytes.NewReader(object))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		c.counters = nil
		return err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		c.add(key.(string), string(value))
	}
	return nil
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

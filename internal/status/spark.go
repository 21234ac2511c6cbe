package status

import "strings"

var bars = []rune("▁▂▃▄▅▆▇█")

// sparkline draws each value as one character, from the least to the greatest of them,
// and nil as a blank. Equal values are a low line.
func sparkline(values []*float64) string {
	low, high, seen := 0.0, 0.0, false
	for _, v := range values {
		if v == nil {
			continue
		}
		if !seen {
			low, high, seen = *v, *v, true
		}
		low, high = min(low, *v), max(high, *v)
	}
	var b strings.Builder
	for _, v := range values {
		switch {
		case v == nil:
			b.WriteByte(' ')
		case high/2-low/2 <= 1e-9*max(high, -low): // an error of rounding
			b.WriteRune(bars[0])
		default: // halves, whose difference never overflows
			share := (*v/2 - low/2) / (high/2 - low/2)
			b.WriteRune(bars[int(share*float64(len(bars)-1)+0.5)])
		}
	}
	return b.String()
}

// sparkWidth is how many characters an hour is drawn in.
func sparkWidth(room int) int {
	switch {
	case room >= 60:
		return 60
	case room >= 30:
		return 30
	}
	return 15
}

// merge averages the values down to so many.
func merge(values []*float64, columns int) []*float64 {
	each := len(values) / columns
	merged := make([]*float64, columns)
	for i := range merged {
		sum, n := 0.0, 0.0
		for _, v := range values[i*each : (i+1)*each] {
			if v != nil {
				sum, n = sum+*v, n+1
			}
		}
		if n > 0 {
			merged[i] = number(sum / n)
		}
	}
	return merged
}

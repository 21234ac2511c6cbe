package status

import (
	"math"
	"strings"
)

var bars = []rune("▁▂▃▄▅▆▇█")

// sparkline draws each value as one character, from the least to the greatest of them,
// and nil as a blank. Equal values are a low line.
func sparkline(values []*float64) string {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if v != nil {
			low, high = min(low, *v), max(high, *v)
		}
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

package status

import "strings"

var bars = []rune("▁▂▃▄▅▆▇█")

const hole = ' '

// sparkline draws values as one character each, from the least to the greatest of
// them, and a hole where there is none. Values that are all alike are a low line.
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
			b.WriteRune(hole)
		case high/2-low/2 <= 1e-9*max(high, -low): // what is left of rounding
			b.WriteRune(bars[0])
		default: // of halves, whose difference is always a number
			share := (*v/2 - low/2) / (high/2 - low/2)
			b.WriteRune(bars[int(share*float64(len(bars)-1)+0.5)])
		}
	}
	return b.String()
}

// sparkWidths are the widths that an hour is drawn in: whole minutes a column.
var sparkWidths = []int{60, 30, 20, 15, 12, 10, 6}

// sparkWidth is the greatest of them that fits, the least where none does.
func sparkWidth(room int) int {
	for _, width := range sparkWidths {
		if width <= room {
			return width
		}
	}
	return sparkWidths[len(sparkWidths)-1]
}

// merge makes columns of the values, each the average of as many of them.
func merge(values []*float64, columns int) []*float64 {
	each := max(1, len(values)/columns)
	merged := make([]*float64, 0, columns)
	for start := 0; start+each <= len(values); start += each {
		var average *float64
		n := 0.0
		for _, v := range values[start : start+each] {
			if v == nil {
				continue
			}
			n++
			if average == nil {
				average = new(float64)
			}
			*average = *average*((n-1)/n) + *v/n
		}
		merged = append(merged, average)
	}
	return merged
}

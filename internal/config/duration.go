package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var durationUnits = []struct {
	name string
	span time.Duration
}{
	{"ms", time.Millisecond}, // before m and s
	{"w", 7 * day},
	{"d", day},
	{"h", time.Hour},
	{"m", time.Minute},
	{"s", time.Second},
}

const day = 24 * time.Hour

var (
	errDuration     = errors.New("is not a time such as 21d, 36h, 90m, 30s or 1500ms")
	errLongDuration = errors.New("is too long")
)

// parseDuration reads whole numbers with a unit each, such as 21d, 1d12h or
// 1500ms, or one number without, which counts units of bare. It is never negative.
func parseDuration(text string, bare time.Duration) (time.Duration, error) {
	var sum time.Duration
	for rest := text; ; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 {
			return 0, errDuration
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil {
			return 0, errLongDuration
		}
		span, after := bare, ""
		if digits < len(rest) || rest != text {
			if span, after, err = cutUnit(rest[digits:]); err != nil {
				return 0, err
			}
		}
		if n > (math.MaxInt64-int64(sum))/int64(span) {
			return 0, errLongDuration
		}
		sum += time.Duration(n) * span
		if rest = after; rest == "" {
			return sum, nil
		}
	}
}

func cutUnit(text string) (span time.Duration, after string, err error) {
	for _, u := range durationUnits {
		if after, ok := strings.CutPrefix(text, u.name); ok {
			return u.span, after, nil
		}
	}
	return 0, "", fmt.Errorf("%w: the units are w, d, h, m, s and ms", errDuration)
}

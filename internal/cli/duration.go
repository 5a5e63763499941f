package cli

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A Duration is a flag's value for a time span such as 21d, 3w, 36h, 90m, 30s
// or 1d12h: whole numbers with a unit each, days being 24 hours. It is never
// negative.
type Duration time.Duration

var durationUnits = []struct {
	letter byte
	span   time.Duration
}{
	{'w', 7 * 24 * time.Hour},
	{'d', 24 * time.Hour},
	{'h', time.Hour},
	{'m', time.Minute},
	{'s', time.Second},
}

// Set parses text. It implements pflag.Value.
func (d *Duration) Set(text string) error {
	parsed, err := parseDuration(text)
	if err != nil {
		return err
	}
	*d = Duration(parsed)
	return nil
}

func parseDuration(text string) (time.Duration, error) {
	var sum time.Duration
	rest := text
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 {
			return 0, errors.New("want a whole number with a unit, like 21d, 3w, 36h, 90m or 30s")
		}
		number, err := strconv.ParseInt(rest[:digits], 10, 64)
		if err != nil {
			return 0, errors.New("too long")
		}
		if digits == len(rest) {
			return 0, fmt.Errorf("%s of what? Add a unit: w, d, h, m or s", rest)
		}
		span, err := durationUnit(rest[digits])
		if err != nil {
			return 0, err
		}
		if number > (math.MaxInt64-int64(sum))/int64(span) {
			return 0, errors.New("too long")
		}
		sum += time.Duration(number) * span
		rest = rest[digits+1:]
	}
	if text == "" {
		return 0, errors.New("is empty")
	}
	return sum, nil
}

func durationUnit(letter byte) (time.Duration, error) {
	for _, u := range durationUnits {
		if u.letter == letter {
			return u.span, nil
		}
	}
	return 0, fmt.Errorf("unknown unit %q: want w, d, h, m or s", rune(letter))
}

// String returns the duration as Set reads it, in days and smaller units.
func (d *Duration) String() string {
	rest := time.Duration(*d)
	var b strings.Builder
	for _, u := range durationUnits[1:] {
		if n := int64(rest / u.span); n > 0 {
			fmt.Fprintf(&b, "%d%c", n, u.letter)
			rest %= u.span
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// Type names the kind of value in help texts. It implements pflag.Value.
func (d *Duration) Type() string { return "duration" }

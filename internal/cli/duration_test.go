package cli_test

import (
	"testing"
	"time"

	"github.com/smpq/smpq/internal/cli"
)

func TestDuration(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		in   string
		want time.Duration
		text string
	}{
		{"21d", 21 * day, "21d"},
		{"3w", 21 * day, "21d"},
		{"36h", 36 * time.Hour, "1d12h"},
		{"90m", 90 * time.Minute, "1h30m"},
		{"1d12h", 36 * time.Hour, "1d12h"},
		{"1w1d1h1m1s", 8*day + time.Hour + time.Minute + time.Second, "8d1h1m1s"},
		{"0s", 0, "0s"},
		{"007d", 7 * day, "7d"},
		{"106751d", 106751 * day, "106751d"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			var d cli.Duration
			if err := d.Set(tt.in); err != nil {
				t.Fatal(err)
			}
			if got := time.Duration(d); got != tt.want {
				t.Errorf("Set(%q) = %v, want %v", tt.in, got, tt.want)
			}
			if got := d.String(); got != tt.text {
				t.Errorf("String() = %q, want %q", got, tt.text)
			}
		})
	}
}

func TestDurationRefuses(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "is empty"},
		{"21", "21 of what? Add a unit: w, d, h, m or s"},
		{"1d21", "21 of what? Add a unit: w, d, h, m or s"},
		{"-1d", "want a whole number with a unit, like 21d, 3w, 36h, 90m or 30s"},
		{"+1d", "want a whole number with a unit, like 21d, 3w, 36h, 90m or 30s"},
		{"1.5d", `unknown unit '.': want w, d, h, m or s`},
		{"d", "want a whole number with a unit, like 21d, 3w, 36h, 90m or 30s"},
		{"1 d", `unknown unit ' ': want w, d, h, m or s`},
		{"1M", `unknown unit 'M': want w, d, h, m or s`},
		{"106752d", "too long"},
		{"99999999999999999999d", "too long"},
		{"106751d99999999999s", "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			d := cli.Duration(time.Hour)
			err := d.Set(tt.in)
			if err == nil || err.Error() != tt.want {
				t.Errorf("Set(%q) = %v, want %q", tt.in, err, tt.want)
			}
			if time.Duration(d) != time.Hour {
				t.Errorf("a refused text changed the value to %v", d)
			}
		})
	}
}

func FuzzDuration(f *testing.F) {
	for _, text := range []string{"21d", "3w", "36h", "1d12h30m1s", "0s", "106752d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var d, again cli.Duration
		if err := d.Set(in); err != nil {
			return
		}
		if d < 0 {
			t.Errorf("Set(%q) = %d, negative", in, d)
		}
		if err := again.Set(d.String()); err != nil || again != d {
			t.Errorf("%q is %q, which is read as %d, %v, want %d", in, d.String(), again, err, d)
		}
	})
}

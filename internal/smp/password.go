package smp

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
)

// A Password lets its holder create queues on a router, or send through it as a
// proxy (SMP protocol, basic authorization). It has 1 to 255 bytes. The zero
// Password means "none".
//
// A Password does not print itself: String and LogValue hide it. Use Reveal where
// it has to be written.
type Password struct{ raw string }

var errPassword = errors.New(`a password has no white space, no control characters and none of "@", ":" and "/"`)

// ParsePassword returns the password with the given bytes, which stand for
// Latin-1 characters: those that print and are no white space, except '@', ':'
// and '/'.
func ParsePassword[T []byte | string](b T) (Password, error) {
	if len(b) == 0 || len(b) > MaxShort {
		return Password{}, fmt.Errorf("a password has 1 to %d bytes, not %d", MaxShort, len(b))
	}
	for i := range len(b) {
		const noBreakSpace, softHyphen = 0xa0, 0xad
		switch c := b[i]; {
		case c <= ' ', c == '@', c == ':', c == '/', c >= 0x7f && c <= noBreakSpace, c == softHyphen:
			return Password{}, errPassword
		}
	}
	return Password{raw: string(b)}, nil
}

// IsZero reports whether p is the zero Password, "none".
func (p Password) IsZero() bool { return p.raw == "" }

// Equal reports whether p and other are the same. The time it takes does not
// depend on where they differ.
func (p Password) Equal(other Password) bool {
	return subtle.ConstantTimeCompare([]byte(p.raw), []byte(other.raw)) == 1
}

// Reveal returns the bytes of p.
func (p Password) Reveal() string { return p.raw }

// String returns a placeholder that does not depend on the password.
func (p Password) String() string {
	if p.IsZero() {
		return "(none)"
	}
	return "(password)"
}

// GoString returns the same placeholder as String.
func (p Password) GoString() string { return p.String() }

// LogValue returns the same placeholder as String.
func (p Password) LogValue() slog.Value { return slog.StringValue(p.String()) }

// MarshalText returns the same placeholder as String.
func (p Password) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// append appends p behind its length byte.
func (p Password) append(b []byte) []byte {
	return append(append(b, byte(len(p.raw))), p.raw...) //nolint:gosec // ParsePassword limits the length
}

func (d *decoder) password() Password {
	b := d.Short()
	if d.err != nil {
		return Password{}
	}
	p, err := ParsePassword(b)
	if err != nil {
		d.Fail(err.Error())
	}
	return p
}

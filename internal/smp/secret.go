package smp

import (
	"fmt"
	"log/slog"
)

// DHSecretSize is the length in bytes of a [DHSecret].
const DHSecretSize = 32

// A DHSecret is the X25519 shared secret with which the router encrypts what it
// delivers to a recipient or a notifier. The zero DHSecret means "none".
//
// A DHSecret does not print itself: String and LogValue hide it. Use Append or
// Reveal where the secret has to be written.
type DHSecret struct {
	raw string // a string, so that an absent secret costs two words
}

// ParseDHSecret returns the secret with the given raw bytes.
func ParseDHSecret[T []byte | string](b T) (DHSecret, error) {
	if len(b) != DHSecretSize {
		return DHSecret{}, fmt.Errorf("a DH secret has %d bytes, not %d", DHSecretSize, len(b))
	}
	return DHSecret{raw: string(b)}, nil
}

// IsZero reports whether s is the zero DHSecret, "none".
func (s DHSecret) IsZero() bool { return s.raw == "" }

// Append appends the raw bytes of s to b.
func (s DHSecret) Append(b []byte) []byte { return append(b, s.raw...) }

// AppendReveal appends the text encoding of s, base64url, to b.
func (s DHSecret) AppendReveal(b []byte) []byte { return AppendBase64(b, []byte(s.raw)) }

// Reveal returns the text encoding of s, base64url.
func (s DHSecret) Reveal() string { return string(s.AppendReveal(nil)) }

// String returns a placeholder that does not depend on the secret.
func (s DHSecret) String() string { return "(secret)" }

// GoString returns the same placeholder as String.
func (s DHSecret) GoString() string { return s.String() }

// LogValue returns the same placeholder as String.
func (s DHSecret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns the same placeholder as String.
func (s DHSecret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ScanBytes sets s from a bytea value; NULL becomes the zero DHSecret.
func (s *DHSecret) ScanBytes(b []byte) error {
	if b == nil {
		*s = DHSecret{}
		return nil
	}
	var err error
	*s, err = ParseDHSecret(b)
	return err
}

// BytesValue returns the raw bytes of s as a bytea value; the zero DHSecret
// becomes NULL.
func (s DHSecret) BytesValue() ([]byte, error) {
	if s.IsZero() {
		return nil, nil
	}
	return []byte(s.raw), nil
}

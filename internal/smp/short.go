package smp

import (
	"bytes"
	"fmt"
)

// A Short is a byte string of at most 255 bytes: an id, a nonce, a signature, as
// the protocol writes it behind one length byte. The zero Short is empty.
//
// A Short shares the memory of the slice it was made of, often that of a block.
// Use [Short.ID] or [bytes.Clone] to keep it for longer.
type Short struct{ raw []byte }

// NewShort returns b as a Short. It fails if b has more than 255 bytes.
func NewShort(b []byte) (Short, error) {
	if len(b) > MaxShort {
		return Short{}, fmt.Errorf("%d bytes where the protocol has room for %d", len(b), MaxShort)
	}
	return Short{b}, nil
}

// Bytes returns the bytes of s, not a copy.
func (s Short) Bytes() []byte { return s.raw }

// Len returns the number of bytes of s.
func (s Short) Len() int { return len(s.raw) }

// IsEmpty reports whether s has no bytes, which means "none" for most values.
func (s Short) IsEmpty() bool { return len(s.raw) == 0 }

// Equal reports whether s and other have the same bytes. Nil and empty are the
// same.
func (s Short) Equal(other Short) bool { return bytes.Equal(s.raw, other.raw) }

// ID returns a copy of s as an id.
func (s Short) ID() EntityID { return NewEntityID(s.raw) }

// String returns the base64url text of s.
func (s Short) String() string { return string(AppendBase64(nil, s.raw)) }

// Append appends a length byte and the bytes of s to b.
func (s Short) Append(b []byte) []byte {
	return append(append(b, byte(len(s.raw))), s.raw...) //nolint:gosec // NewShort limits the length
}

// ReadShort reads a Short, which aliases the input of r.
func ReadShort(r *BinaryReader) Short { return Short{r.Short()} }

package smp

import (
	"errors"
	"hash/maphash"
	"strings"
)

// IDSize is the length in bytes of the ids that routers generate. Readers
// accept any length from one byte on.
const IDSize = 24

// MaxID is the length in bytes of the longest id that is read. The protocol has
// one length byte for it; logs have been seen with longer ones. PostgreSQL has no
// place in its indexes for ids that are much longer than this.
const MaxID = 2600

// An EntityID names a queue, a service or a message to one party. It is an
// arbitrary byte string; the zero EntityID means "none". EntityIDs are
// comparable and serve as map keys.
//
// EntityID has the methods by which pgx reads and writes bytea values, so types
// that embed it are stored without a driver in their package.
type EntityID struct{ raw string }

// NewEntityID returns the id with the given bytes. An id of a string shares its
// memory.
func NewEntityID[T []byte | string](b T) EntityID { return EntityID{raw: string(b)} }

// ParseEntityID reads an id in the text encoding: base64url, padded or not.
func ParseEntityID(text string) (EntityID, error) {
	b, err := DecodeBase64([]byte(text))
	if err != nil {
		return EntityID{}, err
	}
	return NewEntityID(b), nil
}

// IsZero reports whether id is the zero EntityID, "none".
func (id EntityID) IsZero() bool { return id.raw == "" }

// Len returns the number of bytes of id.
func (id EntityID) Len() int { return len(id.raw) }

// Append appends the raw bytes of id to b.
func (id EntityID) Append(b []byte) []byte { return append(b, id.raw...) }

// Bytes returns a copy of the raw bytes of id.
func (id EntityID) Bytes() []byte { return []byte(id.raw) }

// Short returns id as it travels in blocks. It fails if id has more than 255
// bytes, as only ids in old logs have.
func (id EntityID) Short() (Short, error) { return NewShort([]byte(id.raw)) }

// AppendText appends the text encoding of id, base64url, to b. It never fails;
// the error is there for [encoding.TextAppender].
func (id EntityID) AppendText(b []byte) ([]byte, error) {
	return AppendBase64(b, []byte(id.raw)), nil
}

// MarshalText returns the text encoding of id.
func (id EntityID) MarshalText() ([]byte, error) { return id.AppendText(nil) }

// String returns the text encoding of id.
func (id EntityID) String() string { return string(AppendBase64(nil, []byte(id.raw))) }

// Hash returns a hash of the bytes of id.
func (id EntityID) Hash(seed maphash.Seed) uint64 { return maphash.String(seed, id.raw) }

// Compare orders ids by their bytes, unsigned, as PostgreSQL orders bytea.
func (id EntityID) Compare(other EntityID) int { return strings.Compare(id.raw, other.raw) }

// ScanBytes sets id from a bytea value; NULL becomes the zero EntityID.
func (id *EntityID) ScanBytes(b []byte) error {
	if b != nil && len(b) == 0 {
		return errors.New("id is empty")
	}
	id.raw = string(b)
	return nil
}

// BytesValue returns id as a bytea value; the zero EntityID becomes NULL.
func (id EntityID) BytesValue() ([]byte, error) {
	if id.IsZero() {
		return nil, nil
	}
	return []byte(id.raw), nil
}

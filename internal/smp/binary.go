package smp

import (
	"encoding/binary"
	"fmt"
)

// AppendUint16 appends n to b in two bytes, big endian.
func AppendUint16(b []byte, n uint16) []byte { return binary.BigEndian.AppendUint16(b, n) }

// AppendLarge appends x to b behind two length bytes. Longer byte strings than
// [MaxLarge] have no encoding: what comes out is larger than any block, and so
// nobody sends it.
func AppendLarge(b, x []byte) []byte {
	return append(AppendUint16(b, uint16(len(x))), x...) //nolint:gosec // see above
}

// MaxShort is the length of the longest byte string that the binary encoding
// can hold behind one length byte.
const MaxShort = 255

// MaxLarge is the length of the longest byte string that the binary encoding
// can hold behind two length bytes.
const MaxLarge = 65535

// A BinaryReader reads values of the binary encoding from the start of a byte
// slice. It keeps the first error: after it, all reads return zero values.
type BinaryReader struct {
	in  []byte
	pos int
	err error
}

// NewBinaryReader returns a BinaryReader of in. The values that it returns
// alias in.
func NewBinaryReader(in []byte) *BinaryReader { return &BinaryReader{in: in} }

// Err returns the first error or nil.
func (r *BinaryReader) Err() error { return r.err }

// Fail records an error at the current offset, unless there is one already.
func (r *BinaryReader) Fail(reason string) {
	if r.err == nil {
		r.err = fmt.Errorf("byte %d: %s", r.pos, reason)
	}
}

// Byte reads one byte.
func (r *BinaryReader) Byte() byte {
	b := r.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// Uint16 reads a number of two bytes, big endian.
func (r *BinaryReader) Uint16() uint16 {
	b := r.take(2)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

// Int64 reads a number of eight bytes, big endian, two's complement.
func (r *BinaryReader) Int64() int64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // two's complement
}

// Bool reads a truth value, the letter T or F.
func (r *BinaryReader) Bool() bool { return r.choice('T', 'F') }

// Present reads the digit before an optional value: 1 says that it follows, 0
// that it is absent.
func (r *BinaryReader) Present() bool { return r.choice('1', '0') }

// choice reads yes or no, and reports which.
func (r *BinaryReader) choice(yes, no byte) bool {
	switch c := r.Byte(); {
	case r.err != nil:
		return false
	case c == yes:
		return true
	case c != no:
		r.pos--
		r.Fail(fmt.Sprintf("expected %q or %q", yes, no))
	}
	return false
}

// Rest reads all that is left.
func (r *BinaryReader) Rest() []byte { return r.take(len(r.in) - r.pos) }

// Short reads a byte string behind one length byte.
func (r *BinaryReader) Short() []byte { return r.take(int(r.Byte())) }

// Large reads a byte string behind two length bytes, big endian.
func (r *BinaryReader) Large() []byte {
	return r.take(int(r.Uint16()))
}

// End checks that the whole input was read.
func (r *BinaryReader) End() {
	if r.err == nil && r.pos < len(r.in) {
		r.Fail("bytes left over after the value")
	}
}

func (r *BinaryReader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if len(r.in)-r.pos < n {
		r.Fail("the value ends early")
		return nil
	}
	b := r.in[r.pos : r.pos+n : r.pos+n]
	r.pos += n
	return b
}

package smp

import (
	"encoding/binary"
	"fmt"
)

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

// Short reads a byte string behind one length byte.
func (r *BinaryReader) Short() []byte { return r.take(int(r.Byte())) }

// Large reads a byte string behind two length bytes, big endian.
func (r *BinaryReader) Large() []byte {
	n := r.take(2)
	if n == nil {
		return nil
	}
	return r.take(int(binary.BigEndian.Uint16(n)))
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

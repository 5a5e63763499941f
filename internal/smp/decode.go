package smp

import "bytes"

// A decoder reads commands and responses of one version. Like the BinaryReader
// in it, it keeps the first error.
type decoder struct {
	BinaryReader
	v Version
}

func newDecoder(in []byte, v Version) decoder {
	return decoder{BinaryReader: BinaryReader{in: in}, v: v}
}

// maxList is how many members a list can have, which has one byte for their
// number.
const maxList = 255

// peek returns the next byte without reading it, or 0 at the end.
func (d *decoder) peek() byte {
	if d.atEnd() {
		return 0
	}
	return d.in[d.pos]
}

// tag reads the bytes up to the next space or the end.
func (d *decoder) tag() []byte {
	rest := d.in[d.pos:]
	if i := bytes.IndexByte(rest, ' '); i >= 0 {
		rest = rest[:i]
	}
	return d.take(len(rest))
}

// space reads one space.
func (d *decoder) space() {
	if d.Byte() != ' ' && d.err == nil {
		d.pos--
		d.Fail("expected a space")
	}
}

// atEnd reports whether nothing is left to read.
func (d *decoder) atEnd() bool { return d.pos == len(d.in) }

func (d *decoder) short() Short { return ReadShort(&d.BinaryReader) }

// authKey reads a key that authorizes commands.
func (d *decoder) authKey() PublicKey {
	der := d.Short()
	if d.err != nil {
		return PublicKey{}
	}
	k, err := ParseAuthKey(der)
	if err != nil {
		d.Fail(err.Error())
	}
	return k
}

// dhKey reads an X25519 key.
func (d *decoder) dhKey() PublicKey {
	der := d.Short()
	if d.err != nil {
		return PublicKey{}
	}
	k, err := ParsePublicKey(der)
	if err == nil && k.Algorithm() != X25519 {
		err = errKeyDH
	}
	if err != nil {
		d.Fail(err.Error())
		return PublicKey{}
	}
	return k
}

// blocking reads blocking info to the end of the input.
func (d *decoder) blocking() Blocking {
	r := NewTextReader(d.Rest())
	b := ReadBlocking(r)
	r.End()
	if err := r.Err(); err != nil {
		d.Fail(err.Error())
	}
	return b
}

// appendKey appends a key behind its length byte.
func appendKey(b []byte, k PublicKey) []byte {
	return k.Append(append(b, byte(k.Size()))) //nolint:gosec // at most 69
}

func appendBool(b []byte, x bool) []byte {
	if x {
		return append(b, 'T')
	}
	return append(b, 'F')
}

// appendOptional appends the digit of an optional value and, if it is present,
// the value.
func appendOptional(b []byte, present bool, value func([]byte) []byte) []byte {
	if !present {
		return append(b, '0')
	}
	return value(append(b, '1'))
}

func appendInt64(b []byte, n int64) []byte {
	for shift := 56; shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift)) //nolint:gosec // the lower eight bits are wanted
	}
	return b
}

package smp

import (
	"fmt"
	"math"
)

// A SyntaxError says where text stops to follow its grammar.
type SyntaxError struct {
	Offset int    // bytes before the offending place
	Reason string // what was expected or is wrong there
}

// Error returns the reason with the column, counted from 1.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("column %d: %s", e.Offset+1, e.Reason)
}

// A TextReader reads values of the text encoding from the start of a byte
// slice. It keeps the first error: after it, all reads return zero values.
type TextReader struct {
	in      []byte
	pos     int
	err     *SyntaxError
	scratch [96]byte // fits all ids and keys that routers use
}

// NewTextReader returns a TextReader of in. The values that it returns share no
// memory with in.
func NewTextReader(in []byte) *TextReader { return &TextReader{in: in} }

// Err returns the first error, a [*SyntaxError], or nil.
func (r *TextReader) Err() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

// Offset returns the number of bytes read so far.
func (r *TextReader) Offset() int { return r.pos }

// Fail records an error at the given offset, unless there is one already.
func (r *TextReader) Fail(offset int, reason string) {
	if r.err == nil {
		r.err = &SyntaxError{Offset: offset, Reason: reason}
	}
}

// Word reads the bytes up to the next white space or the end of the input.
func (r *TextReader) Word() []byte {
	if r.err != nil {
		return nil
	}
	start := r.pos
	for r.pos < len(r.in) && !isSpace(r.in[r.pos]) {
		r.pos++
	}
	return r.in[start:r.pos]
}

// Skip reads lit if the input goes on with it, and reports whether it does.
func (r *TextReader) Skip(lit string) bool {
	if r.err != nil || len(r.in)-r.pos < len(lit) || string(r.in[r.pos:r.pos+len(lit)]) != lit {
		return false
	}
	r.pos += len(lit)
	return true
}

// Expect reads lit, with which the input must go on.
func (r *TextReader) Expect(lit string) {
	if r.err == nil && !r.Skip(lit) {
		r.Fail(r.pos, fmt.Sprintf("expected %q", lit))
	}
}

// Space reads the one white-space character that separates members of a tuple.
// Writers use a space; a tab, VT, FF or CR is accepted, as smp-server accepts
// it.
func (r *TextReader) Space() {
	switch {
	case r.err != nil:
	case r.pos < len(r.in) && isSpace(r.in[r.pos]):
		r.pos++
	case r.pos < len(r.in):
		r.Fail(r.pos, "expected a space")
	default:
		r.Fail(r.pos, "the line ends where a space and a further field are expected")
	}
}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// End checks that the whole input was read.
func (r *TextReader) End() {
	if r.err == nil && r.pos < len(r.in) {
		reason := "unexpected text after the end of the record"
		if r.in[r.pos] == '\r' && r.pos == len(r.in)-1 {
			reason = "carriage return at the end of the line (a file with Windows line ends?)"
		}
		r.Fail(r.pos, reason)
	}
}

// AtEnd reports whether nothing is left to read.
func (r *TextReader) AtEnd() bool { return r.pos == len(r.in) }

// Rest reads all that is left. The slice aliases the input.
func (r *TextReader) Rest() []byte {
	if r.err != nil {
		return nil
	}
	rest := r.in[r.pos:]
	r.pos = len(r.in)
	return rest
}

// Unread takes back the last n bytes that were read.
func (r *TextReader) Unread(n int) { r.pos -= n }

// Bytes reads a base64url value: first all characters of the alphabet, then
// all '=' characters, whatever follows.
func (r *TextReader) Bytes() []byte { return r.bytes(nil) }

// bytes is Bytes that decodes into buf if it is large enough.
func (r *TextReader) bytes(buf []byte) []byte {
	if r.err != nil {
		return nil
	}
	b, n, err := decodeBase64(buf, r.in[r.pos:])
	if err != nil {
		r.Fail(r.pos, err.Error())
	}
	r.pos += n
	return b
}

// ID reads an entity id, of at most MaxID bytes.
func (r *TextReader) ID() EntityID {
	start := r.pos
	b := r.bytes(r.scratch[:0])
	if len(b) > MaxID {
		r.Fail(start, fmt.Sprintf("id of %d bytes: more than %d have no place in an index", len(b), MaxID))
		return EntityID{}
	}
	return NewEntityID(b)
}

// AuthKey reads a public key that authorizes commands.
func (r *TextReader) AuthKey() PublicKey {
	start := r.pos
	b := r.bytes(r.scratch[:0])
	if r.err != nil {
		return PublicKey{}
	}
	k, err := ParseAuthKey(b)
	if err != nil {
		r.Fail(start, err.Error())
	}
	return k
}

// DHSecret reads a shared secret.
func (r *TextReader) DHSecret() DHSecret {
	start := r.pos
	b := r.bytes(r.scratch[:0])
	if r.err != nil {
		return DHSecret{}
	}
	s, err := ParseDHSecret(b)
	if err != nil {
		r.Fail(start, err.Error())
	}
	return s
}

// Int64 reads a decimal number with an optional sign. Unlike smp-server, whose
// numbers wrap, it refuses a number outside the range of int64.
func (r *TextReader) Int64() int64 {
	if r.err != nil {
		return 0
	}
	start := r.pos
	negative := r.Skip("-")
	if !negative {
		r.Skip("+")
	}
	digits := r.pos
	var n uint64
	for r.pos < len(r.in) && r.in[r.pos] >= '0' && r.in[r.pos] <= '9' {
		if n > math.MaxInt64/10 {
			r.Fail(start, "number out of range")
			return 0
		}
		n = n*10 + uint64(r.in[r.pos]-'0')
		r.pos++
	}
	switch {
	case r.pos == digits:
		r.Fail(start, "expected a number")
		return 0
	case negative && n <= 1<<63:
		return -int64(n) // 1<<63 becomes itself
	case n > math.MaxInt64:
		r.Fail(start, "number out of range")
		return 0
	}
	return int64(n)
}

// Peek reports whether the input goes on with c.
func (r *TextReader) Peek(c byte) bool { return r.pos < len(r.in) && r.in[r.pos] == c }

package smp

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
)

// Reasons for which base64url text is refused.
var (
	errBase64Empty        = errors.New("base64url value is empty")
	errBase64Size         = errors.New("base64url value has an impossible length")
	errBase64Padding      = errors.New("base64url value is padded wrongly")
	errBase64NonCanonical = errors.New("base64url value is not canonical: unused bits of its last character are set")
	errBase64Alphabet     = errors.New("base64url value has a character outside its alphabet")
)

// AppendBase64 appends the base64url text of src to dst, padded with '=' to a
// multiple of four characters, as the protocol's text encoding writes it.
func AppendBase64(dst, src []byte) []byte {
	return base64.URLEncoding.AppendEncode(dst, src)
}

// DecodeBase64 decodes base64url text that is padded completely or not at all.
// Empty text, partial or superfluous padding, other alphabets and non-canonical
// last characters are errors.
func DecodeBase64(text []byte) ([]byte, error) {
	out, n, err := decodeBase64(nil, text)
	if err == nil && n < len(text) {
		err = errBase64Alphabet
	}
	return out, err
}

// decodeBase64 decodes the base64url value at the start of text: all characters
// of the alphabet and then all '=' characters. It returns the bytes, in buf if
// that is large enough, and the length of the value.
//
// The decoder of the standard library needs to be told where the value ends, and
// takes twice the time. Most of a store log is base64url.
func decodeBase64(buf, text []byte) (out []byte, length int, err error) {
	word := valueSpan(text)
	const slack = 8 // eight bytes are written at a time, six of them for good
	out = slices.Grow(buf[:0], word/4*3+slack)
	out = out[:cap(out)]
	n, i := 0, 0
	for len(text)-i >= 8 && len(out)-n >= slack {
		a, b, c, d := base64Values[text[i]], base64Values[text[i+1]], base64Values[text[i+2]], base64Values[text[i+3]]
		e, f, g, h := base64Values[text[i+4]], base64Values[text[i+5]], base64Values[text[i+6]], base64Values[text[i+7]]
		if (a|b|c|d|e|f|g|h)&notBase64 != 0 {
			break
		}
		v := uint64(a)<<58 | uint64(b)<<52 | uint64(c)<<46 | uint64(d)<<40 | uint64(e)<<34 | uint64(f)<<28 | uint64(g)<<22 | uint64(h)<<16
		binary.BigEndian.PutUint64(out[n:], v)
		n += 6
		i += 8
	}
	out = out[:n]
	var bits, width uint
	for ; i < len(text) && base64Values[text[i]] != notBase64; i++ {
		bits = bits<<6 | uint(base64Values[text[i]])
		width += 6
		if width >= 8 {
			width -= 8
			out = append(out, byte(bits>>width)) //nolint:gosec // the lower eight bits are wanted
		}
	}
	letters := i
	for i < len(text) && text[i] == '=' {
		i++
	}
	switch pad := i - letters; {
	case letters == 0:
		return nil, i, errBase64Empty
	case letters%4 == 1:
		return nil, i, errBase64Size
	case pad != 0 && (i%4 != 0 || pad > 2):
		return nil, i, errBase64Padding
	case bits&(1<<width-1) != 0:
		return nil, i, errBase64NonCanonical
	}
	return out, i, nil
}

// valueSpan returns a bound for the length of the value at the start of text,
// which a space or a comma ends. It looks no further than twice its result: text
// may be a long list of short values.
func valueSpan(text []byte) int {
	for size := 128; ; size *= 2 {
		window := text[:min(size, len(text))]
		if i := bytes.IndexByte(window, ' '); i >= 0 {
			window = window[:i]
		}
		if i := bytes.IndexByte(window, ','); i >= 0 {
			window = window[:i]
		}
		if len(window) < size {
			return len(window)
		}
	}
}

// base64Values maps characters to their values, or to notBase64.
var base64Values = func() (values [256]byte) {
	for i := range values {
		values[i] = notBase64
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		values[c] = byte(i)
	}
	return values
}()

const notBase64 = 0x80

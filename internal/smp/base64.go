package smp

import (
	"encoding/base64"
	"errors"
	"slices"
)

// Reasons for which base64url text is refused.
var (
	errBase64Empty        = errors.New("base64url value is empty")
	errBase64Size         = errors.New("base64url value has an impossible length")
	errBase64Padding      = errors.New("base64url value is padded wrongly")
	errBase64NonCanonical = errors.New("base64url value is not canonical: unused bits of its last character are set")
)

var base64Raw = base64.RawURLEncoding.Strict()

// AppendBase64 appends the base64url text of src to dst, padded with '=' to a
// multiple of four characters, as the protocol's text encoding writes it.
func AppendBase64(dst, src []byte) []byte {
	return base64.URLEncoding.AppendEncode(dst, src)
}

// DecodeBase64 decodes base64url text that is padded completely or not at all.
// Empty text, partial or superfluous padding, other alphabets and non-canonical
// last characters are errors.
func DecodeBase64(text []byte) ([]byte, error) {
	n := base64Span(text)
	pad := len(text) - n
	for _, c := range text[n:] {
		if c != '=' {
			return nil, errors.New("base64url value has a character outside its alphabet")
		}
	}
	return decodeBase64(nil, text[:n], pad)
}

// decodeBase64 decodes letters, which hold only characters of the alphabet and
// were followed by pad '=' characters. It appends the bytes to buf.
func decodeBase64(buf, letters []byte, pad int) ([]byte, error) {
	switch {
	case len(letters) == 0:
		return nil, errBase64Empty
	case len(letters)%4 == 1:
		return nil, errBase64Size
	case pad != 0 && (len(letters)+pad)%4 != 0, pad > 2:
		return nil, errBase64Padding
	}
	out, err := base64Raw.AppendDecode(slices.Grow(buf, base64Raw.DecodedLen(len(letters))), letters)
	if err != nil {
		return nil, errBase64NonCanonical
	}
	return out, nil
}

// base64Span returns the length of the prefix of text that consists of
// characters of the base64url alphabet.
func base64Span(text []byte) int {
	for i, c := range text {
		if !base64Alphabet[c] {
			return i
		}
	}
	return len(text)
}

var base64Alphabet = func() (set [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" {
		set[c] = true
	}
	return set
}()

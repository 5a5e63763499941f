package store

import (
	"encoding/hex"
	"strconv"
)

// The functions of this file write fields of COPY … WITH (FORMAT CSV). NULL is
// a field with nothing in it, so that every other value must differ from that.

// csvText appends a text value, always in quotes: whatever is in it, PostgreSQL
// reads the same text. The value must not contain NUL, which PostgreSQL has no
// text with.
func csvText[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' {
			b = append(b, '"')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// csvBytes appends a bytea value in hexadecimal form, which needs no quotes.
func csvBytes(b, value []byte) []byte {
	return hex.AppendEncode(append(b, '\\', 'x'), value)
}

// csvInt appends an integer value.
func csvInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

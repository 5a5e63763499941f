package smp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// padding fills up what is padded. Readers do not look at it.
const padding = '#'

// AppendPadded appends content to b, padded to size bytes: two length bytes, the
// content, and '#' (SMP protocol, padding). It fails if the content has more
// than size-2 bytes.
func AppendPadded(b, content []byte, size int) ([]byte, error) {
	if len(content) > min(size-2, MaxLarge) {
		return nil, fmt.Errorf("pad to %d bytes: %d bytes do not fit", size, len(content))
	}
	end := len(b) + size
	b = AppendLarge(slices.Grow(b, size), content)
	if fill := b[len(b):end]; len(fill) > 0 {
		fill[0] = padding
		for n := 1; n < len(fill); n *= 2 {
			copy(fill[n:], fill[:n])
		}
	}
	return b[:end], nil
}

var errPadded = errors.New("unpad: the length exceeds what is there")

// Unpad returns the content of what was padded. It aliases padded; the bytes
// behind it are not checked.
func Unpad(padded []byte) ([]byte, error) {
	if len(padded) < 2 {
		return nil, errPadded
	}
	n := int(binary.BigEndian.Uint16(padded))
	if n > len(padded)-2 {
		return nil, errPadded
	}
	return padded[2 : 2+n : 2+n], nil
}

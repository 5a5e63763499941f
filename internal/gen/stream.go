package gen

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// A domain separates the random streams of one number.
type domain byte

const (
	domainQueue   domain = iota + 1 // what a queue is, by its number
	domainLink                      // its link, by its number
	domainEvent                     // what its later records have, by number and ordinal
	domainService                   // a service, by its number
	domainBad                       // bad lines, in the order of the log
)

// A stream is random bytes and numbers that depend on nothing but a seed, a
// domain and two numbers.
type stream struct {
	src rand.ChaCha8
}

// seek goes to the start of a stream.
func (s *stream) seek(seed uint64, d domain, number int64, ordinal uint8) {
	key := [32]byte{24: byte(d), 25: ordinal}
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(number)) //nolint:gosec // not negative
	s.src.Seed(key)
}

// appendBytes appends n random bytes to b.
func (s *stream) appendBytes(b []byte, n int) []byte {
	for ; n >= 8; n -= 8 {
		b = binary.LittleEndian.AppendUint64(b, s.src.Uint64())
	}
	if n > 0 {
		var last [8]byte
		binary.LittleEndian.PutUint64(last[:], s.src.Uint64())
		b = append(b, last[:n]...)
	}
	return b
}

// below returns a number from 0 to n-1.
func (s *stream) below(n int) int {
	hi, _ := bits.Mul64(s.src.Uint64(), uint64(n)) //nolint:gosec // not negative
	return int(hi)                                 //nolint:gosec // less than n
}

// chance is true so many times in a thousand.
func (s *stream) chance(perMille int) bool { return s.below(1000) < perMille }

package smp

import (
	"errors"
	"fmt"
)

// A Transmission is a command or a response with what says who sends it and what
// it is about (SMP protocol, transmission structure).
//
// Its fields alias the block that it was parsed from.
type Transmission struct {
	// Auth is a signature or an authenticator, told apart by their lengths. It is
	// empty in responses and in commands that need no authorization.
	Auth Short
	// ServiceAuth is the second signature, that of the service in whose session
	// the command is sent; empty if there is none. It exists from version 16 on,
	// and only together with Auth.
	ServiceAuth Short
	// SessionID is the identifier of the session. Only version 6 sends it; in
	// later versions parsing leaves it empty.
	SessionID Short
	// CorrID relates a response to its command: 24 random bytes, at most 255. It
	// is empty in events.
	CorrID Short
	// EntityID says what the transmission is about: the id of a queue for the
	// sending party, of a service, or of a proxied session; empty if nothing.
	EntityID Short
	// Command is an encoded [Command] or [Response].
	Command []byte
}

// ParseTransmission parses one transmission of a block.
func ParseTransmission(in []byte, v Version) (Transmission, error) {
	var t Transmission
	r := BinaryReader{in: in}
	t.Auth = ReadShort(&r)
	if v >= VersionServices && !t.Auth.IsEmpty() && r.Present() {
		t.ServiceAuth = ReadShort(&r)
		if r.err == nil && t.ServiceAuth.IsEmpty() {
			r.Fail("the signature of the service is empty")
		}
	}
	if v < VersionSessionKeys {
		t.SessionID = ReadShort(&r)
	}
	t.CorrID = ReadShort(&r)
	t.EntityID = ReadShort(&r)
	t.Command = r.Rest()
	if r.err != nil {
		return Transmission{}, fmt.Errorf("parse transmission: %w", r.err)
	}
	return t, nil
}

// Append appends the encoding of t in a session of version v to b.
func (t *Transmission) Append(b []byte, v Version) []byte {
	b = t.Auth.Append(b)
	if v >= VersionServices && !t.Auth.IsEmpty() {
		if t.ServiceAuth.IsEmpty() {
			b = append(b, '0')
		} else {
			b = t.ServiceAuth.Append(append(b, '1'))
		}
	}
	if v < VersionSessionKeys {
		b = t.SessionID.Append(b)
	}
	b = t.CorrID.Append(b)
	b = t.EntityID.Append(b)
	return append(b, t.Command...)
}

// AppendSigned appends the bytes that Auth and ServiceAuth authorize to b, the
// same in all versions: the session identifier, the ids and the command.
// SessionID is not used; only the caller knows the right one.
func (t *Transmission) AppendSigned(b []byte, session Short) []byte {
	b = session.Append(b)
	b = t.CorrID.Append(b)
	b = t.EntityID.Append(b)
	return append(b, t.Command...)
}

// Sizes of what is sent between routers and clients, in bytes (SMP protocol,
// transport connection).
const (
	// BlockSize is the size of a block.
	BlockSize = 16384
	// MaxContent is the size of the largest content of a [Batch]. Blocks that are
	// not encrypted have room for 16 bytes more, which nobody uses.
	MaxContent = 1 + maxBatch
	// MaxTransmissions is how many transmissions a block can have.
	MaxTransmissions = 255

	maxBatch = 16365 // of transmissions, with two length bytes each
)

// ErrTooLarge reports a transmission that no block has room for.
var ErrTooLarge = errors.New("the transmission does not fit into a block")

// A Batch is the content of a block in the making: one or more transmissions.
// The zero Batch is empty.
type Batch struct{ content []byte }

// Add adds an encoded transmission, and reports whether there was room for it.
// It fails with [ErrTooLarge] if there never is.
func (b *Batch) Add(transmission []byte) (added bool, err error) {
	size := 2 + len(transmission)
	if size > maxBatch {
		return false, ErrTooLarge
	}
	if len(b.content) == 0 {
		b.content = append(b.content, 0)
	}
	if b.content[0] == MaxTransmissions || len(b.content)+size > MaxContent {
		return false, nil
	}
	b.content[0]++
	b.content = AppendLarge(b.content, transmission)
	return true, nil
}

// Len returns the number of transmissions in b.
func (b *Batch) Len() int {
	if len(b.content) == 0 {
		return 0
	}
	return int(b.content[0])
}

// Content returns what a block with the transmissions of b has to hold. It is
// valid until the next call of Add or Reset. There is no content without any
// transmission.
func (b *Batch) Content() []byte { return b.content }

// Reset removes all transmissions. It keeps the memory.
func (b *Batch) Reset() { b.content = b.content[:0] }

// SplitContent appends the encoded transmissions in the content of a block to
// dst. They alias content. The content must be complete, without anything behind
// the last transmission.
func SplitContent(dst [][]byte, content []byte) ([][]byte, error) {
	r := BinaryReader{in: content}
	n := int(r.Byte())
	if r.err == nil && n == 0 {
		r.Fail("a block has at least one transmission")
	}
	start := len(dst)
	for range n {
		dst = append(dst, r.Large())
	}
	r.End()
	if r.err != nil {
		return dst[:start], fmt.Errorf("split block: %w", r.err)
	}
	return dst, nil
}

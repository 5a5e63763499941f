package auth

import (
	"errors"
	"log/slog"
	"slices"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/salsa20/salsa" //nolint:staticcheck // the protocol puts its keys through HSalsa20 alone

	"github.com/smpq/smpq/internal/smp"
)

// BoxOverhead is the number of bytes by which [Box.Seal] makes its input longer.
const BoxOverhead = secretbox.Overhead

// NonceSize is the length in bytes of a [Nonce].
const NonceSize = 24

// ErrOpen reports what a [Box] cannot open: it was made with another key or
// nonce, was changed, or is too short.
var ErrOpen = errors.New("cannot be decrypted with this key")

// A Nonce makes each use of a [Box] differ from all others. It is not secret.
type Nonce [NonceSize]byte

// NonceOf returns the nonce that the protocol makes of an id: its first 24
// bytes, with zero bytes after shorter ones.
func NonceOf[T ~[]byte | ~string](id T) (n Nonce) {
	copy(n[:], id)
	return n
}

// Reply returns the nonce for the answer to what was sent with n: the bytes in
// reverse order.
func (n Nonce) Reply() Nonce {
	slices.Reverse(n[:])
	return n
}

// A Box encrypts and authenticates with a secret that two parties share: the
// crypto_box of NaCl (XSalsa20 and Poly1305, the tag first), given an X25519
// shared secret instead of two keys. The protocol puts keys that are no shared
// secrets through the same construction.
//
// A Box does not print itself.
type Box struct{ key [32]byte }

// NewBox returns the box of a shared secret.
func NewBox(secret smp.DHSecret) *Box {
	var raw [32]byte
	secret.Append(raw[:0])
	return newBox(&raw)
}

func newBox(secret *[32]byte) *Box {
	var b Box
	var zero [16]byte
	salsa.HSalsa20(&b.key, &zero, secret, &salsa.Sigma)
	return &b
}

// Seal appends plain to dst, encrypted and authenticated: [BoxOverhead] bytes
// more than it has. The two must not overlap.
func (b *Box) Seal(dst []byte, nonce Nonce, plain []byte) []byte {
	return secretbox.Seal(dst, plain, (*[NonceSize]byte)(&nonce), &b.key)
}

// Open appends to dst what was sealed, or returns [ErrOpen]. The two must not
// overlap.
func (b *Box) Open(dst []byte, nonce Nonce, sealed []byte) ([]byte, error) {
	out, ok := secretbox.Open(dst, sealed, (*[NonceSize]byte)(&nonce), &b.key)
	if !ok {
		return nil, ErrOpen
	}
	return out, nil
}

// String returns a placeholder that does not depend on the key.
func (b *Box) String() string { return hidden }

// GoString returns the same placeholder as String.
func (b *Box) GoString() string { return hidden }

// LogValue returns the same placeholder as String.
func (b *Box) LogValue() slog.Value { return slog.StringValue(hidden) }

// hidden stands for secrets wherever something is printed.
const hidden = "(secret)"

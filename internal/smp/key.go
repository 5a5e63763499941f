package smp

import (
	"errors"
	"fmt"
	"strings"
)

// An Algorithm is the algorithm of a [PublicKey].
type Algorithm uint8

// The algorithms of the protocol. Ed25519 and Ed448 keys check signatures;
// X25519 keys check authenticators and agree on secrets; X448 keys can be
// encoded, but authorize nothing.
const (
	Ed25519 Algorithm = iota + 1
	Ed448
	X25519
	X448
)

// String returns the usual name of a, for example "Ed25519".
func (a Algorithm) String() string {
	if a == 0 || int(a) > len(keyForms) {
		return fmt.Sprintf("Algorithm(%d)", uint8(a))
	}
	return keyForms[a-1].name
}

// keyForms lists, by algorithm, what precedes the raw key in a DER
// SubjectPublicKeyInfo and the length of the raw key (RFC 8410).
var keyForms = [...]struct {
	name   string
	prefix string
	size   int
}{
	{"Ed25519", "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32},
	{"Ed448", "\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00", 57},
	{"X25519", "\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00", 32},
	{"X448", "\x30\x42\x30\x05\x06\x03\x2b\x65\x6f\x03\x39\x00", 56},
}

// Reasons for which a key is refused.
var (
	errKeyForm = errors.New("not a public key of a known algorithm (DER SubjectPublicKeyInfo of Ed25519, Ed448, X25519 or X448)")
	errKeyDH   = errors.New("expected an X25519 key")
	errKeyAuth = errors.New("an X448 key cannot authorize commands")
)

// A PublicKey is a public key in DER SubjectPublicKeyInfo form. The zero
// PublicKey means "none". PublicKeys are comparable.
type PublicKey struct{ der string }

// ParsePublicKey returns the key with the given DER SubjectPublicKeyInfo
// encoding. Unknown algorithms, wrong sizes and trailing bytes are errors.
func ParsePublicKey[T []byte | string](der T) (PublicKey, error) {
	k := PublicKey{der: string(der)}
	if k.Algorithm() == 0 {
		return PublicKey{}, errKeyForm
	}
	return k, nil
}

// NewPublicKey returns the key of algorithm a with the given raw bytes.
func NewPublicKey[T []byte | string](a Algorithm, raw T) (PublicKey, error) {
	if a == 0 || int(a) > len(keyForms) || len(raw) != keyForms[a-1].size {
		return PublicKey{}, errKeyForm
	}
	return PublicKey{der: keyForms[a-1].prefix + string(raw)}, nil
}

// ParseAuthKey is ParsePublicKey for the keys that authorize commands: those of
// recipients, senders and notifiers. An X448 key is an error.
func ParseAuthKey[T []byte | string](der T) (PublicKey, error) {
	k, err := ParsePublicKey(der)
	if err == nil && k.Algorithm() == X448 {
		return PublicKey{}, errKeyAuth
	}
	return k, err
}

// Algorithm returns the algorithm of k, or zero for the zero PublicKey.
func (k PublicKey) Algorithm() Algorithm {
	for i, f := range keyForms {
		if len(k.der) == len(f.prefix)+f.size && strings.HasPrefix(k.der, f.prefix) {
			return Algorithm(i + 1)
		}
	}
	return 0
}

// IsZero reports whether k is the zero PublicKey, "none".
func (k PublicKey) IsZero() bool { return k.der == "" }

// Size returns the length in bytes of the DER encoding of k: at most 69.
func (k PublicKey) Size() int { return len(k.der) }

// Append appends the DER encoding of k to b.
func (k PublicKey) Append(b []byte) []byte { return append(b, k.der...) }

// AppendRaw appends the raw key to b, without what DER puts before it.
func (k PublicKey) AppendRaw(b []byte) []byte {
	if a := k.Algorithm(); a != 0 {
		return append(b, k.der[len(keyForms[a-1].prefix):]...)
	}
	return b
}

// AppendText appends the text encoding of k, the base64url of its DER encoding.
// It never fails; the error is there for [encoding.TextAppender].
func (k PublicKey) AppendText(b []byte) ([]byte, error) {
	return AppendBase64(b, []byte(k.der)), nil
}

// MarshalText returns the text encoding of k.
func (k PublicKey) MarshalText() ([]byte, error) { return k.AppendText(nil) }

// String returns the text encoding of k.
func (k PublicKey) String() string { return string(AppendBase64(nil, []byte(k.der))) }

// ScanBytes sets k from a bytea value that holds its DER encoding; NULL becomes
// the zero PublicKey.
func (k *PublicKey) ScanBytes(b []byte) error {
	if b == nil {
		*k = PublicKey{}
		return nil
	}
	var err error
	*k, err = ParseAuthKey(b)
	return err
}

// BytesValue returns the DER encoding of k as a bytea value; the zero PublicKey
// becomes NULL.
func (k PublicKey) BytesValue() ([]byte, error) {
	if k.IsZero() {
		return nil, nil
	}
	return []byte(k.der), nil
}

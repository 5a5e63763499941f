package auth

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	// Any client may choose Ed448 keys for its queues, and many routers have
	// Ed448 certificates. The standard library has no Ed448.
	"github.com/cloudflare/circl/sign/ed448"

	"github.com/smpq/smpq/internal/smp"
)

// Reasons for which a key cannot be used.
var (
	errPrivateKey = errors.New("not a private key of a known algorithm (PKCS #8 of Ed25519, Ed448 or X25519)")
	errNotSigning = errors.New("not a key for signatures")
	errNotX25519  = errors.New("not an X25519 key")
)

// A PrivateKey is the private half of a [smp.PublicKey]: an Ed25519 or Ed448 key
// signs, an X25519 key agrees on secrets. The zero PrivateKey means "none".
//
// A PrivateKey does not print itself.
type PrivateKey struct {
	public smp.PublicKey
	sign   []byte           // ed25519.PrivateKey or ed448.PrivateKey
	dh     *ecdh.PrivateKey // X25519
}

// privateForms lists what precedes the raw key in its PKCS #8 form (RFC 8410).
var privateForms = [...]struct {
	algorithm smp.Algorithm
	prefix    string
	size      int
}{
	{smp.Ed25519, "\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20", ed25519.SeedSize},
	{smp.Ed448, "\x30\x47\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x71\x04\x3b\x04\x39", ed448.SeedSize},
	{smp.X25519, "\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x6e\x04\x22\x04\x20", 32},
}

// ParsePrivateKey returns the key with the given PKCS #8 DER encoding, which is
// how certificate keys are kept in files and queue keys in databases.
func ParsePrivateKey(der []byte) (PrivateKey, error) {
	for _, f := range privateForms {
		if len(der) == len(f.prefix)+f.size && string(der[:len(f.prefix)]) == f.prefix {
			return newPrivateKey(f.algorithm, der[len(f.prefix):])
		}
	}
	return PrivateKey{}, errPrivateKey
}

// GenerateKey returns a new random key for Ed25519, Ed448 or X25519.
func GenerateKey(a smp.Algorithm) (PrivateKey, error) {
	for _, f := range privateForms {
		if f.algorithm == a {
			seed := make([]byte, f.size)
			rand.Read(seed) // never fails
			return newPrivateKey(a, seed)
		}
	}
	return PrivateKey{}, fmt.Errorf("generate %v key: %w", a, errPrivateKey)
}

func newPrivateKey(a smp.Algorithm, seed []byte) (k PrivateKey, err error) {
	var public []byte
	switch a {
	case smp.Ed25519:
		key := ed25519.NewKeyFromSeed(seed)
		k.sign, public = key, key[ed25519.SeedSize:]
	case smp.Ed448:
		key := ed448.NewKeyFromSeed(seed)
		k.sign, public = key, key[ed448.SeedSize:]
	case smp.X25519:
		if k.dh, err = ecdh.X25519().NewPrivateKey(seed); err != nil {
			return PrivateKey{}, fmt.Errorf("make X25519 key: %w", err)
		}
		public = k.dh.PublicKey().Bytes()
	case smp.X448:
		return PrivateKey{}, errPrivateKey
	}
	k.public, err = smp.NewPublicKey(a, public)
	return k, err
}

// IsZero reports whether k is the zero PrivateKey, "none".
func (k PrivateKey) IsZero() bool { return k.public.IsZero() }

// Public returns the public half of k.
func (k PrivateKey) Public() smp.PublicKey { return k.public }

// Ed25519 returns an Ed25519 key as the standard library has it; ok is false for
// other keys.
func (k PrivateKey) Ed25519() (key ed25519.PrivateKey, ok bool) {
	if k.public.Algorithm() != smp.Ed25519 {
		return nil, false
	}
	return ed25519.PrivateKey(k.sign), true
}

// Sign appends to dst the signature of message: 64 bytes with an Ed25519 key,
// 114 with an Ed448 key. An X25519 key makes no signatures.
func (k PrivateKey) Sign(dst, message []byte) ([]byte, error) {
	switch k.public.Algorithm() {
	case smp.Ed25519:
		return append(dst, ed25519.Sign(k.sign, message)...), nil
	case smp.Ed448:
		return append(dst, ed448.Sign(k.sign, message, "")...), nil
	case smp.X25519, smp.X448:
	}
	return nil, fmt.Errorf("sign: %w", errNotSigning)
}

// Agree returns the secret that the owner of k shares with the owner of peer.
// Both keys must be X25519 keys; a peer that forces the secret to be zero is
// refused.
func (k PrivateKey) Agree(peer smp.PublicKey) (smp.DHSecret, error) {
	if k.dh == nil || peer.Algorithm() != smp.X25519 {
		return smp.DHSecret{}, fmt.Errorf("agree on a secret: %w", errNotX25519)
	}
	var raw [32]byte
	public, err := ecdh.X25519().NewPublicKey(peer.AppendRaw(raw[:0]))
	if err != nil {
		return smp.DHSecret{}, fmt.Errorf("agree on a secret: %w", err)
	}
	secret, err := k.dh.ECDH(public)
	if err != nil {
		return smp.DHSecret{}, fmt.Errorf("agree on a secret: %w", err)
	}
	return smp.ParseDHSecret(secret)
}

// String returns a placeholder that does not depend on the key.
func (k PrivateKey) String() string { return hidden }

// GoString returns the same placeholder as String.
func (k PrivateKey) GoString() string { return hidden }

// LogValue returns the same placeholder as String.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns the same placeholder as String.
func (k PrivateKey) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// verify reports whether signature is one of message by the owner of key, which
// must be an Ed25519 or Ed448 key.
func verify(key smp.PublicKey, message, signature []byte) bool {
	var raw [ed448.PublicKeySize]byte
	switch key.Algorithm() {
	case smp.Ed25519:
		return ed25519.Verify(key.AppendRaw(raw[:0]), message, signature)
	case smp.Ed448:
		return ed448.Verify(key.AppendRaw(raw[:0]), message, signature, "")
	case smp.X25519, smp.X448:
	}
	return false
}

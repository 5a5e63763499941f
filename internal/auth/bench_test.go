package auth

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha512"
	"testing"

	"github.com/cloudflare/circl/sign/ed448"
	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/salsa20/salsa" //nolint:staticcheck // see Box

	"github.com/smpq/smpq/internal/smp"
)

// BenchmarkBlock compares the encryption of a block with the primitives that it
// is made of: one key derivation, one box.
func BenchmarkBlock(b *testing.B) {
	padded := pad(b, batchContent(b), smp.BlockSize-BoxOverhead)
	dh := secret(b, seq(1, 32))
	sealed := make([]byte, 0, smp.BlockSize)
	b.Run("seal", func(b *testing.B) {
		_, chain := NewBlockChains(short(b, sessionID), dh)
		b.SetBytes(smp.BlockSize)
		b.ReportAllocs()
		for b.Loop() {
			chain.Seal(sealed[:0], padded)
		}
	})
	b.Run("open", func(b *testing.B) {
		_, chain := NewBlockChains(short(b, sessionID), dh)
		block := chain.Seal(nil, padded)
		opened := make([]byte, 0, smp.BlockSize)
		_, first := NewBlockChains(short(b, sessionID), dh)
		b.SetBytes(smp.BlockSize)
		b.ReportAllocs()
		for b.Loop() {
			again := *first
			if _, err := again.Open(opened[:0], block); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("primitives", func(b *testing.B) {
		chainKey := seq(1, 32)
		b.SetBytes(smp.BlockSize)
		b.ReportAllocs()
		for b.Loop() {
			keys, err := hkdf.Key(sha512.New, chainKey, nil, "SimpleXSbChain", 88)
			if err != nil {
				b.Fatal(err)
			}
			var key [32]byte
			var zero [16]byte
			salsa.HSalsa20(&key, &zero, (*[32]byte)(keys[32:]), &salsa.Sigma)
			secretbox.Seal(sealed[:0], padded, (*[24]byte)(keys[64:]), &key)
		}
	})
}

// BenchmarkVerify compares the check of an authorization with the primitive that
// it is made of.
func BenchmarkVerify(b *testing.B) {
	for _, a := range signingAlgorithms {
		key := newKey(b, a)
		tr, v := authorized(b, ByParty, key, nil)
		signed := tr.AppendSigned(nil, short(b, sessionID))
		b.Run(a.String()+"/verify", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := v.Verify(&tr, ByParty, key.Public()); err != nil {
					b.Fatal(err)
				}
			}
		})
		raw := key.Public().AppendRaw(nil)
		b.Run(a.String()+"/primitive", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ok := true
				switch a {
				case smp.Ed25519:
					ok = ed25519.Verify(raw, signed, tr.Auth.Bytes())
				case smp.Ed448:
					ok = ed448.Verify(raw, signed, tr.Auth.Bytes(), "")
				case smp.X25519, smp.X448:
					_, err := v.key.dh.ECDH(key.dh.PublicKey())
					ok = err == nil
				}
				if !ok {
					b.Fatal("not verified")
				}
			}
		})
	}
}

// BenchmarkAuthorize compares making an authorization with the primitive that it
// is made of.
func BenchmarkAuthorize(b *testing.B) {
	router := newKey(b, smp.X25519)
	for _, a := range signingAlgorithms {
		key := newKey(b, a)
		signer := Signer{Session: short(b, sessionID), Router: router.Public()}
		tr := smp.Transmission{CorrID: short(b, corrID), EntityID: short(b, recipientID), Command: []byte("SUB")}
		b.Run(a.String()+"/authorize", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := signer.Authorize(&tr, ByParty, key); err != nil {
					b.Fatal(err)
				}
			}
		})
		signed := tr.AppendSigned(nil, short(b, sessionID))
		b.Run(a.String()+"/primitive", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				switch a {
				case smp.Ed25519:
					ed25519.Sign(key.sign, signed)
				case smp.Ed448:
					ed448.Sign(key.sign, signed, "")
				case smp.X25519, smp.X448:
					if _, err := key.dh.ECDH(router.dh.PublicKey()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

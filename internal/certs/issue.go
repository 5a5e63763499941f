package certs

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // names keys, protects nothing (RFC 5280, 4.2.1.2)
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// A certificate is what is signed. The standard library cannot sign with Ed448
// keys, nor does it write names and extensions in the order of smp-server.
type certificate struct {
	serial    *big.Int
	issuer    []byte // DER
	subject   []byte // DER
	notBefore time.Time
	notAfter  time.Time
	key       smp.PublicKey
	issuerKey []byte // identifier of the key that signs
	authority bool   // may sign others; else it is for a router's connections
}

// validity is how long certificates are valid, in days: as those that smp-server
// makes, until the year 4764.
const validity = 999_999

// newSerial returns a random serial number of 20 bytes at most.
func newSerial() *big.Int {
	b := make([]byte, 20)
	rand.Read(b) // never fails
	b[0] &= 0x7f // positive
	return new(big.Int).SetBytes(b)
}

// Names of attributes (RFC 5280, appendix A).
var (
	commonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	organization = asn1.ObjectIdentifier{2, 5, 4, 10}
)

type attribute struct {
	id    asn1.ObjectIdentifier
	value string
}

// name returns the DER of a name.
func name(attributes ...attribute) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, a := range attributes {
			b.AddASN1(der.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(a.id)
					b.AddASN1(der.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.value)) })
				})
			})
		}
	})
	return b.Bytes()
}

// keyID returns the usual identifier of a key.
func keyID(k smp.PublicKey) []byte {
	sum := sha1.Sum(k.AppendRaw(nil)) //nolint:gosec // see above
	return sum[:]
}

// sign returns the certificate, DER, signed with a key of Ed25519 or Ed448.
func (c certificate) sign(k auth.PrivateKey) ([]byte, error) {
	algorithm, err := algorithmID(k.Public())
	if err != nil {
		return nil, err
	}
	signed, err := c.body(algorithm)
	if err != nil {
		return nil, err
	}
	signature, err := k.Sign(nil, signed)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(signed)
		b.AddBytes(algorithm)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// algorithmID returns the AlgorithmIdentifier of a key and of what it signs
// (RFC 8410).
func algorithmID(k smp.PublicKey) ([]byte, error) {
	last, ok := map[smp.Algorithm]int{smp.Ed25519: 112, smp.Ed448: 113}[k.Algorithm()]
	if !ok {
		return nil, fmt.Errorf("an %v key cannot sign", k.Algorithm())
	}
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 101, last})
	})
	return b.Bytes()
}

// body returns what is signed: a TBSCertificate (RFC 5280, 4.1).
func (c certificate) body(algorithm []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(der.Tag(0).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // version 3
		b.AddASN1BigInt(c.serial)
		b.AddBytes(algorithm)
		b.AddBytes(c.issuer)
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, c.notBefore)
			addTime(b, c.notAfter)
		})
		b.AddBytes(c.subject)
		b.AddBytes(c.key.Append(nil))
		b.AddASN1(der.Tag(3).Constructed().ContextSpecific(), func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, c.addExtensions)
		})
	})
	return b.Bytes()
}

// addTime adds a time in the form that its year has to have.
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
	} else {
		b.AddASN1GeneralizedTime(t)
	}
}

// The extensions of a router's certificates.
var (
	subjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	keyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	basicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	authorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	extendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	serverAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
)

// addExtensions adds the extensions in the order of smp-server.
func (c certificate) addExtensions(b *cryptobyte.Builder) {
	if c.authority {
		c.addKeyIDs(b)
		addExtension(b, basicConstraints, true, func(b *cryptobyte.Builder) {
			b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) })
		})
		return
	}
	addExtension(b, basicConstraints, false, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(*cryptobyte.Builder) {})
	})
	addExtension(b, keyUsage, false, func(b *cryptobyte.Builder) {
		// Bits 0, 1 and 4: digitalSignature, nonRepudiation, keyAgreement.
		b.AddASN1(der.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte{3, 0b11001000}) })
	})
	addExtension(b, extendedKeyUsage, false, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(serverAuth) })
	})
	c.addKeyIDs(b)
}

func (c certificate) addKeyIDs(b *cryptobyte.Builder) {
	addExtension(b, subjectKeyID, false, func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyID(c.key)) })
	addExtension(b, authorityKeyID, false, func(b *cryptobyte.Builder) {
		b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(der.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(c.issuerKey) })
		})
	})
}

func addExtension(b *cryptobyte.Builder, id asn1.ObjectIdentifier, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(der.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(id)
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(der.OCTET_STRING, value)
	})
}

package auth

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/smpq/smpq/internal/smp"
)

// Reasons for which certificates and what they sign are refused.
var (
	// ErrChain says that a certificate chain does not hold.
	ErrChain = errors.New("the certificate chain does not hold")
	// ErrSignedKey says that a session key was not signed with the key of the
	// certificate.
	ErrSignedKey = errors.New("the session key is not signed by the owner of the certificate")
)

// A Chain is a certificate chain that holds.
type Chain struct {
	// Identity is the fingerprint of the identity certificate, by which addresses
	// name a router and routers know a service.
	Identity smp.Fingerprint
	// Leaf is the key of the first certificate, zero if it is neither an Ed25519
	// nor an Ed448 key.
	Leaf smp.PublicKey
}

// VerifyRouterChain checks the certificates of a router, DER, the leaf first:
// two to four, of which the second is the identity and the last is trusted (SMP
// protocol, router certificates). All must be valid now; host names do not
// matter.
//
// Each certificate must have signed the one before it. Nothing less would do:
// whoever adds the identity of another router to a chain of his own must fail.
func VerifyRouterChain(der [][]byte, now time.Time) (Chain, error) {
	if len(der) < 2 {
		return Chain{}, fmt.Errorf("%w: %d certificates where a router has two to four", ErrChain, len(der))
	}
	return VerifyServiceChain(der, now)
}

// VerifyServiceChain checks the certificates of a service like those of a router.
// A single certificate, usually self-signed, is an identity too.
func VerifyServiceChain(der [][]byte, now time.Time) (Chain, error) {
	if len(der) == 0 || len(der) > smp.MaxCertificates {
		return Chain{}, fmt.Errorf("%w: %d certificates where there may be four", ErrChain, len(der))
	}
	certs := make([]*x509.Certificate, len(der))
	for i, d := range der {
		cert, err := x509.ParseCertificate(d)
		if err != nil {
			return Chain{}, fmt.Errorf("%w: certificate %d: %w", ErrChain, i+1, err)
		}
		if err := checkCertificate(cert, now); err != nil {
			return Chain{}, fmt.Errorf("%w: certificate %d (%s): %w", ErrChain, i+1, cert.Subject, err)
		}
		certs[i] = cert
	}
	if leaf := certs[0]; leaf.Version != 3 || leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return Chain{}, fmt.Errorf("%w: certificate 1 (%s) is not for signatures", ErrChain, leaf.Subject)
	}
	for i, cert := range certs[:len(certs)-1] {
		anchor := i+1 == len(certs)-1
		if err := checkIssued(cert, certs[i+1], anchor); err != nil {
			return Chain{}, fmt.Errorf("%w: certificate %d (%s): %w", ErrChain, i+1, cert.Subject, err)
		}
	}
	c := Chain{Identity: smp.FingerprintOf(der[min(1, len(der)-1)])}
	if key := publicKey(certs[0]); key.Algorithm() == smp.Ed25519 || key.Algorithm() == smp.Ed448 {
		c.Leaf = key
	}
	return c, nil
}

func checkCertificate(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("not valid before %s", cert.NotBefore.Format(time.DateTime))
	case now.After(cert.NotAfter):
		return fmt.Errorf("expired on %s", cert.NotAfter.Format(time.DateTime))
	case len(cert.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("unknown critical extension %v", cert.UnhandledCriticalExtensions[0])
	}
	return nil
}

// checkIssued checks that issuer signed cert and was allowed to. A trusted issuer
// need not say that it may: services have been seen with such certificates.
func checkIssued(cert, issuer *x509.Certificate, trusted bool) error {
	switch {
	case !bytes.Equal(cert.RawIssuer, issuer.RawSubject):
		return fmt.Errorf("issued by %q, not by the following certificate (%s)", cert.Issuer, issuer.Subject)
	case issuer.BasicConstraintsValid && !issuer.IsCA, !issuer.BasicConstraintsValid && !trusted,
		issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("its issuer (%s) must not issue certificates", issuer.Subject)
	}
	key := publicKey(issuer)
	if key.Algorithm() != smp.Ed448 {
		return issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature)
	}
	if !verify(key, cert.RawTBSCertificate, cert.Signature) { // unknown to the standard library
		return fmt.Errorf("not signed by its issuer (%s)", issuer.Subject)
	}
	return nil
}

// publicKey returns the key of cert, or zero if it is of another kind than the
// protocol's own.
func publicKey(cert *x509.Certificate) smp.PublicKey {
	key, err := smp.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return smp.PublicKey{}
	}
	return key
}

// SignKey returns a session key together with its signature by the owner of a
// certificate, as it stands in [smp.SignedKey].
func SignKey(leaf PrivateKey, key smp.PublicKey) ([]byte, error) {
	wrapped, err := build(func(b *cryptobyte.Builder) { b.AddBytes(key.Append(nil)) })
	if err != nil {
		return nil, fmt.Errorf("sign session key: %w", err)
	}
	signature, err := leaf.Sign(nil, wrapped)
	if err != nil {
		return nil, fmt.Errorf("sign session key: %w", err)
	}
	return build(func(b *cryptobyte.Builder) {
		b.AddBytes(wrapped)
		b.AddBytes(algorithmID(leaf.Public()))
		b.AddASN1BitString(signature)
	})
}

// SessionKey returns the session key in what [SignKey] made, or [ErrSignedKey] if
// it is not signed with the key of the chain's leaf.
func (c Chain) SessionKey(signed []byte) (smp.PublicKey, error) {
	var fields, wrapped, key, algorithm cryptobyte.String
	var signature []byte
	in := cryptobyte.String(signed)
	ok := in.ReadASN1(&fields, asn1.SEQUENCE) && in.Empty() &&
		fields.ReadASN1Element(&wrapped, asn1.SEQUENCE) &&
		fields.ReadASN1Element(&algorithm, asn1.SEQUENCE) &&
		fields.ReadASN1BitStringAsBytes(&signature) && fields.Empty()
	if ok {
		rest := wrapped
		ok = rest.ReadASN1(&key, asn1.SEQUENCE)
	}
	if !ok {
		return smp.PublicKey{}, fmt.Errorf("%w: malformed", ErrSignedKey)
	}
	public, err := smp.ParsePublicKey([]byte(key))
	if err != nil {
		return smp.PublicKey{}, fmt.Errorf("%w: %w", ErrSignedKey, err)
	}
	if c.Leaf.IsZero() || !bytes.Equal(algorithm, algorithmID(c.Leaf)) || !verify(c.Leaf, wrapped, signature) {
		return smp.PublicKey{}, ErrSignedKey
	}
	return public, nil
}

// algorithmID returns the AlgorithmIdentifier of a key, which is part of its DER
// encoding.
func algorithmID(key smp.PublicKey) []byte {
	var fields, id cryptobyte.String
	in := cryptobyte.String(key.Append(nil))
	if !in.ReadASN1(&fields, asn1.SEQUENCE) || !fields.ReadASN1Element(&id, asn1.SEQUENCE) {
		return nil
	}
	return id
}

// build returns a DER sequence.
func build(content cryptobyte.BuilderContinuation) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, content)
	return b.Bytes()
}

package routertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// NewCredentials returns new certificates of a router, such as smp-server makes
// them: an authority, which is the identity, and a leaf. They are valid from 1999
// to 2999, thus also where [testing/synctest] stops the clock, unless change sets
// other dates, or other things, of the leaf.
func NewCredentials(t testing.TB, change ...func(leaf *x509.Certificate)) transport.Credentials {
	t.Helper()
	begin := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "SMP server CA", Organization: []string{"SimpleX"}},
		NotBefore:             begin,
		NotAfter:              begin.AddDate(1000, 0, 0),
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    ca.NotBefore,
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyAgreement,
	}
	for _, c := range change {
		c(leaf)
	}
	_, caKey := newKey(t)
	key, leafKey := newKey(t)
	chain := [][]byte{certify(t, leaf, ca, leafKey, caKey), certify(t, ca, ca, caKey, caKey)}
	return transport.Credentials{Chain: chain, Key: key}
}

// NewServiceCredentials returns what a new service proves itself with.
func NewServiceCredentials(t testing.TB, role queue.Role) transport.ServiceCredentials {
	t.Helper()
	own := NewCredentials(t, func(leaf *x509.Certificate) { leaf.Subject.CommonName = "service" })
	return transport.ServiceCredentials{Credentials: own, Role: role}
}

func newKey(t testing.TB) (auth.PrivateKey, ed25519.PrivateKey) {
	t.Helper()
	k, err := auth.GenerateKey(smp.Ed25519)
	if err != nil {
		t.Fatalf("new certificate: %v", err)
	}
	signer, _ := k.Ed25519()
	return k, signer
}

func certify(t testing.TB, c, issuer *x509.Certificate, key, issuerKey ed25519.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatalf("new certificate: %v", err)
	}
	return der
}

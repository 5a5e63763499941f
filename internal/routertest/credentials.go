package routertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
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
	c, err := newCredentials(change...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// NewServiceCredentials is [MakeServiceCredentials] for a test.
func NewServiceCredentials(t testing.TB, role queue.Role) transport.ServiceCredentials {
	t.Helper()
	c, err := MakeServiceCredentials(role)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// MakeServiceCredentials returns what a new service proves itself with.
func MakeServiceCredentials(role queue.Role) (transport.ServiceCredentials, error) {
	own, err := newCredentials(func(leaf *x509.Certificate) { leaf.Subject.CommonName = "service" })
	return transport.ServiceCredentials{Credentials: own, Role: role}, err
}

func newCredentials(change ...func(leaf *x509.Certificate)) (transport.Credentials, error) {
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
	key, err := auth.GenerateKey(smp.Ed25519)
	if err != nil {
		return transport.Credentials{}, fmt.Errorf("new certificate: %w", err)
	}
	leafKey, _ := key.Ed25519()
	_, caKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return transport.Credentials{}, fmt.Errorf("new certificate: %w", err)
	}
	var chain [2][]byte
	if chain[0], err = x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey); err == nil {
		chain[1], err = x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	}
	if err != nil {
		return transport.Credentials{}, fmt.Errorf("new certificate: %w", err)
	}
	return transport.Credentials{Chain: chain[:], Key: key}, nil
}

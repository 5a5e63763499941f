package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func short(t testing.TB, b []byte) smp.Short {
	t.Helper()
	s, err := smp.NewShort(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// long is before all clocks of tests; those of synctest begin in 2000.
var long = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)

// credentials returns a new chain of a leaf and its authority, as the real router
// makes them.
func credentials(t testing.TB, name string) Credentials {
	t.Helper()
	return newAuthority(t, name).issue(t)
}

// An authority issues certificates of a router.
type authority struct {
	template *x509.Certificate
	cert     []byte
	key      ed25519.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{template: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " CA", Organization: []string{"SimpleX"}},
		NotBefore: long, NotAfter: long.AddDate(2000, 0, 0),
		BasicConstraintsValid: true, IsCA: true,
	}}
	_, a.key = signingKey(t)
	var err error
	if a.cert, err = x509.CreateCertificate(rand.Reader, a.template, a.template, a.key.Public(), a.key); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) issue(t testing.TB) Credentials {
	t.Helper()
	leaf, leafKey := signingKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: a.template.NotBefore, NotAfter: a.template.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment | x509.KeyUsageKeyAgreement,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.template, leafKey.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return Credentials{Chain: [][]byte{cert, a.cert}, Key: leaf}
}

// selfSigned returns a new single certificate, as services have it.
func selfSigned(t testing.TB) Credentials {
	t.Helper()
	key, signer := signingKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "simplex"},
		NotBefore: long, NotAfter: long.AddDate(2000, 0, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return Credentials{Chain: [][]byte{cert}, Key: key}
}

func signingKey(t testing.TB) (auth.PrivateKey, ed25519.PrivateKey) {
	t.Helper()
	k, err := auth.GenerateKey(smp.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	std, _ := k.Ed25519()
	return k, std
}

var allVersions = smp.VersionRange{Min: smp.MinVersion, Max: smp.MaxVersion}

func newAcceptor(t testing.TB, change ...func(*AcceptorConfig)) *Acceptor {
	t.Helper()
	config := AcceptorConfig{Credentials: credentials(t, "router"), Versions: allVersions, Service: takeService}
	for _, c := range change {
		c(&config)
	}
	a, err := NewAcceptor(config)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func takeService(_ context.Context, offer ServiceOffer) (smp.EntityID, error) {
	return smp.NewEntityID(offer.Identity.Bytes()[:24]), nil
}

func newDialer(a *Acceptor) *Dialer { return &Dialer{Router: a.Identity(), Versions: allVersions} }

// loopback returns both ends of a TCP connection. A pipe would not do for a
// handshake with a HelloRetryRequest, in which both ends write at the same time.
func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d net.Dialer
	client, err = d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// A result is what one end of a connection came to.
type result struct {
	conn *Conn
	err  error
}

// connect connects both ends over a pipe. The connections are closed when the
// test ends.
func connect(t testing.TB, a *Acceptor, d *Dialer) (router, client result) {
	t.Helper()
	accepted := make(chan result, 2) // a Dialer may connect a second time
	dial := func(context.Context) (net.Conn, error) {
		ours, theirs := loopback(t)
		go func() {
			c, err := a.Accept(context.Background(), theirs)
			accepted <- result{c, err}
		}()
		return ours, nil
	}
	c, err := d.Dial(t.Context(), dial)
	client = result{c, err}
	router = <-accepted
	for _, r := range []result{router, client} {
		if r.conn != nil {
			t.Cleanup(func() { _ = r.conn.conn.Close() })
		}
	}
	return router, client
}

// established is connect that must succeed.
func established(t testing.TB, a *Acceptor, d *Dialer) (router, client *Conn) {
	t.Helper()
	r, c := connect(t, a, d)
	if r.err != nil || c.err != nil {
		t.Fatalf("router: %v; client: %v", r.err, c.err)
	}
	return r.conn, c.conn
}

func serviceOf(t testing.TB, role queue.Role, own Credentials) *ServiceCredentials {
	t.Helper()
	return &ServiceCredentials{Credentials: own, Role: role}
}

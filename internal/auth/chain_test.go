package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// A party has a certificate and its key.
type party struct {
	der      []byte
	cert     *x509.Certificate
	key      PrivateKey
	standard crypto.Signer
}

// issue returns a new certificate of issuer, or a self-signed one of nobody.
func issue(t testing.TB, issuer *party, name string, change func(*x509.Certificate)) *party {
	t.Helper()
	p := &party{key: newKey(t, smp.Ed25519)}
	standard, ok := p.key.Ed25519()
	if !ok {
		t.Fatal("not an Ed25519 key")
	}
	p.standard = standard
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true, IsCA: true,
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, p.standard
	if issuer != nil {
		parent, signer = issuer.cert, issuer.standard
	}
	p.der = signCertificate(t, template, parent, standard.Public(), signer)
	cert, err := x509.ParseCertificate(p.der)
	if err != nil {
		t.Fatal(err)
	}
	p.cert = cert
	return p
}

func signCertificate(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func leafOnly(c *x509.Certificate) { c.IsCA = false }

func TestChains(t *testing.T) {
	ca := issue(t, nil, "CA", nil)
	leaf := issue(t, ca, "leaf", leafOnly)
	middle := issue(t, ca, "middle", nil)
	lower := issue(t, middle, "lower", nil)
	last := issue(t, lower, "last", leafOnly)
	under := issue(t, middle, "under", leafOnly)
	noCA := issue(t, ca, "not an authority", leafOnly)
	unsaid := issue(t, ca, "unsaid", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false })
	unsaidRoot := issue(t, nil, "unsaid root", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false })
	forbidden := issue(t, nil, "forbidden", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}
	attacker := issue(t, nil, "CA", nil) // of the same name

	// Signed with ECDSA, which the protocol does not use, by an authority.
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: ca.cert.Subject, NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter,
		BasicConstraintsValid: true, IsCA: true,
	}
	ecDER := signCertificate(t, template, template, ec.Public(), ec)
	ecCert, err := x509.ParseCertificate(ecDER)
	if err != nil {
		t.Fatal(err)
	}
	ecCA := &party{der: ecDER, cert: ecCert, standard: ec}

	for _, c := range []struct {
		name    string
		chain   []*party
		at      time.Duration
		router  bool // whether it holds for a router
		service bool
	}{
		{"none", nil, 0, false, false},
		{"one", []*party{ca}, 0, false, true},
		{"two", []*party{leaf, ca}, 0, true, true},
		{"three", []*party{under, middle, ca}, 0, true, true},
		{"four", []*party{last, lower, middle, ca}, 0, true, true},
		{"five", []*party{last, lower, middle, ca, ca}, 0, false, false},
		{"too early", []*party{leaf, ca}, -2 * time.Hour, false, false},
		{"too late", []*party{leaf, ca}, 2 * time.Hour, false, false},
		{"the wrong way", []*party{ca, leaf}, 0, false, false},
		{"without its issuer", []*party{last, middle, ca}, 0, false, false},
		{"issued by another", []*party{leaf, attacker}, 0, false, false},
		{"of another, with the identity of a router", []*party{issue(t, attacker, "evil", leafOnly), ca, attacker}, 0, false, false},
		{"issuer is no authority", []*party{issue(t, noCA, "leaf", leafOnly), noCA, ca}, 0, false, false},
		{"issuer may be an authority", []*party{issue(t, unsaid, "leaf", leafOnly), unsaid, ca}, 0, false, false},
		{"anchor may be an authority", []*party{issue(t, unsaidRoot, "leaf", leafOnly), unsaidRoot}, 0, true, true},
		{"anchor is no authority", []*party{issue(t, noCA, "leaf", leafOnly), noCA}, 0, false, false},
		{"issuer must not sign", []*party{issue(t, forbidden, "leaf", leafOnly), forbidden}, 0, false, false},
		{"leaf must not sign", []*party{issue(t, ca, "leaf", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), ca}, 0, false, false},
		{"unknown critical extension", []*party{issue(t, ca, "leaf", func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{critical} }), ca}, 0, false, false},
		{"an authority with ECDSA", []*party{issue(t, ecCA, "leaf", leafOnly), ecCA}, 0, true, true},
	} {
		var der [][]byte
		for _, p := range c.chain {
			der = append(der, p.der)
		}
		got, err := VerifyRouterChain(der, now.Add(c.at))
		if (err == nil) != c.router || err != nil && !errors.Is(err, ErrChain) {
			t.Errorf("router, %s: got %v", c.name, err)
		}
		if err == nil && (got.Identity != smp.FingerprintOf(der[1]) || got.Leaf != c.chain[0].key.Public()) {
			t.Errorf("router, %s: got the identity %s", c.name, got.Identity)
		}
		if _, err := VerifyServiceChain(der, now.Add(c.at)); (err == nil) != c.service {
			t.Errorf("service, %s: got %v", c.name, err)
		}
	}
	if _, err := VerifyRouterChain([][]byte{[]byte("not"), []byte("certificates")}, now); !errors.Is(err, ErrChain) {
		t.Errorf("no certificates: got %v", err)
	}
}

// A chain of Ed448 certificates, made by OpenSSL, holds, though the TLS of the
// standard library knows nothing of them.
func TestEd448Chain(t *testing.T) {
	leaf := unhex(t, "308201bc3082013ca00302010202142f0f7533c75713b1bcacef32e9490dcb5da049c1300506032b6571302a3116301406035504030c0d534d50207365727665722043413110300e060355040a0c0753696d706c65583020170d3236313132323036343230355a180f34373634313031383036343230355a30143112301006035504030c096c6f63616c686f73743043300506032b6571033a00bfd88d804fbfd9ba2ec103ec7d44a92732cb4deaff86c862b30697323fc803dc13e8014410c8dbf96c8d988d7417b83f114c481e32e03a3c80a36f306d30090603551d1304023000300b0603551d0f0404030203c830130603551d25040c300a06082b06010505070301301d0603551d0e04160414e3922454c42eaffffedf04fdba1f9ee201279b18301f0603551d23041830168014cc8e1071eeff38ffe6fb63ea14eb44bf11653302300506032b6571037300c8d13448102df791fc846c85c6783cf787893ee0b6084413103f560ea67feebea1a6acaae225e1923311aa680e2d747761378ae1d69a4df400aaa87df1afc23ba2ee0ecc485489e3394212436c2d03d45f02657844c1b562c1dc21f7186a109030c737105111ca63f32fe7bfa5e762ee0e00")
	ca := unhex(t, "3082019530820115a00302010202140718d742eda1badde9a1e90001e4ead708dee68d300506032b6571302a3116301406035504030c0d534d50207365727665722043413110300e060355040a0c0753696d706c65583020170d3236313132323036343230345a180f34373634313031383036343230345a302a3116301406035504030c0d534d50207365727665722043413110300e060355040a0c0753696d706c65583043300506032b6571033a0043700ae166d7f25d9effd43dba74be25ba7e05940e7bd14c76724a19b8deee2195e67eab7efb36938eaa7335d233b004998f025cd7fa4a1000a3323030300f0603551d130101ff040530030101ff301d0603551d0e04160414cc8e1071eeff38ffe6fb63ea14eb44bf11653302300506032b65710373006dcdf70d42701b65fdeaf0720280794a767af7ce32083d7e9f04899b6ba975e8517369f0682926334647111debfc532d2089b144475d546f0050d0c6e55b0979a9f4903237ddad3e249becf8c2d7b7a0df923f2b4fa9e56925382cf76c6bcd26e7db0aefed7662c76b3ed94c78d1c4792100")
	at := now.Add(24 * time.Hour)
	chain, err := VerifyRouterChain([][]byte{leaf, ca}, at)
	if err != nil || chain.Leaf.Algorithm() != smp.Ed448 {
		t.Errorf("got %+v, %v", chain, err)
	}
	leaf[300] ^= 1
	if _, err := VerifyRouterChain([][]byte{leaf, ca}, at); !errors.Is(err, ErrChain) {
		t.Errorf("changed: got %v", err)
	}

	// A session key signed with an Ed448 key.
	key, session := newKey(t, smp.Ed448), newKey(t, smp.X25519).Public()
	signed, err := SignKey(key, session)
	if err != nil || len(signed) != 173 {
		t.Fatalf("%d bytes, %v", len(signed), err)
	}
	if got, err := (Chain{Leaf: key.Public()}).SessionKey(signed); err != nil || got != session {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := (Chain{}).SessionKey(signed); !errors.Is(err, ErrSignedKey) {
		t.Errorf("of a certificate of another kind: got %v", err)
	}
	if _, err := SignKey(newKey(t, smp.X25519), session); err == nil {
		t.Error("signed with an X25519 key")
	}
}

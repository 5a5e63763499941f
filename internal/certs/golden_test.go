package certs

import (
	"bytes"
	"crypto/x509"
	"path/filepath"
	"testing"
)

const realData = "../../testdata/smp-server-6.5.5/5-operator/init"

// Certificates are, byte for byte, those that smp-server made of the same keys,
// names, numbers and times: both kinds of signatures leave no choice.
func TestGolden(t *testing.T) {
	for _, folder := range []string{"ed448/cert", "ed448/cert-after-cert-command", "fqdn-no-password/cert", "fqdn-no-password/cert-after-cert-command"} {
		t.Run(folder, func(t *testing.T) {
			in := func(name string) string { return filepath.Join(realData, folder, name) }
			caKey, err := readKey(in(CAKeyFile))
			must(t, err)
			key, err := readKey(in(KeyFile))
			must(t, err)
			subject, err := name(attribute{commonName, "SMP server CA"}, attribute{organization, "SimpleX"})
			must(t, err)
			host, err := name(attribute{commonName, "smp.example.com"})
			must(t, err)

			ca := readOne(t, in(CAFile))
			got, err := certificate{
				serial: ca.SerialNumber, issuer: subject, subject: subject, notBefore: ca.NotBefore, notAfter: ca.NotBefore.AddDate(0, 0, validity),
				key: caKey.Public(), issuerKey: keyID(caKey.Public()), authority: true,
			}.sign(caKey)
			if must(t, err); !bytes.Equal(got, ca.Raw) {
				t.Errorf("authority:\ngot  %x\nwant %x", got, ca.Raw)
			}
			online := readOne(t, in(CertificateFile))
			got, err = certificate{
				serial: online.SerialNumber, issuer: subject, subject: host, notBefore: online.NotBefore, notAfter: online.NotBefore.AddDate(0, 0, validity),
				key: key.Public(), issuerKey: keyID(caKey.Public()),
			}.sign(caKey)
			if must(t, err); !bytes.Equal(got, online.Raw) {
				t.Errorf("online certificate:\ngot  %x\nwant %x", got, online.Raw)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readOne(t testing.TB, file string) *x509.Certificate {
	t.Helper()
	certs, err := readCertificates(file)
	if must(t, err); len(certs) != 1 {
		t.Fatalf("%s has %d certificates", file, len(certs))
	}
	return certs[0]
}

// Package certs makes, renews and checks the certificates of a router, in the
// files of smp-server:
//
//	ca.key       private key of the authority, which is the router's identity
//	ca.crt       its certificate, self-signed
//	server.key   private key of the router's connections
//	server.crt   its certificate, signed by the authority: the online certificate
//	fingerprint  of ca.crt, base64url, as in the router's address
//
// A router needs all of them but ca.key, which should be kept elsewhere: with it,
// and nothing else, a new online certificate can be made for the same identity.
//
// New keys are Ed25519 keys. Routers that were set up before 2024 have Ed448 keys.
// Their authority can stay what it is; their online certificate must be renewed,
// since the TLS of the standard library has no Ed448.
package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// The names of the files.
const (
	CAKeyFile       = "ca.key"
	CAFile          = "ca.crt"
	KeyFile         = "server.key"
	CertificateFile = "server.crt"
	FingerprintFile = "fingerprint"
)

// The permissions of files with and without secrets.
const (
	privateMode fs.FileMode = 0o600
	publicMode  fs.FileMode = 0o644
)

// The PEM types of the files.
const (
	pemKey         = "PRIVATE KEY"
	pemCertificate = "CERTIFICATE"
)

// maxFile bounds what is read of a file, in bytes. Certificates that smp-server
// makes have less than 1 KB.
const maxFile = 1 << 16

// New returns the files of a new router, which do not exist yet, with their
// names in folder. The name is the common name of the online certificate, the
// host by which clients know the router; nobody checks it. Both keys are new.
func New(folder, host string, now time.Time) ([]atomicfile.Content, smp.Fingerprint, error) {
	files, identity, err := newFiles(folder, host, now)
	if err != nil {
		return nil, smp.Fingerprint{}, fmt.Errorf("make certificates: %w", err)
	}
	return files, identity, nil
}

func newFiles(folder, host string, now time.Time) ([]atomicfile.Content, smp.Fingerprint, error) {
	caKey, caPEM, err := newKey()
	if err != nil {
		return nil, smp.Fingerprint{}, err
	}
	subject, err := name(attribute{commonName, "SMP server CA"}, attribute{organization, "SimpleX"})
	if err != nil {
		return nil, smp.Fingerprint{}, err
	}
	begin := now.UTC().Truncate(time.Second)
	ca, err := certificate{
		serial: newSerial(), issuer: subject, subject: subject, notBefore: begin, notAfter: begin.AddDate(0, 0, validity),
		key: caKey.Public(), issuerKey: keyID(caKey.Public()), authority: true,
	}.sign(caKey)
	if err != nil {
		return nil, smp.Fingerprint{}, err
	}
	online, err := newOnline(ca, caKey, host, begin)
	if err != nil {
		return nil, smp.Fingerprint{}, err
	}
	identity := smp.FingerprintOf(ca)
	in := func(name string) string { return filepath.Join(folder, name) }
	return []atomicfile.Content{
		{Name: in(CAKeyFile), Mode: privateMode, Data: caPEM},
		{Name: in(CAFile), Mode: publicMode, Data: encode(pemCertificate, ca)},
		{Name: in(KeyFile), Mode: privateMode, Data: online.keyPEM},
		{Name: in(CertificateFile), Mode: publicMode, Data: encode(pemCertificate, online.certificate)},
		{Name: in(FingerprintFile), Mode: publicMode, Data: []byte(identity.String() + "\n")},
	}, identity, nil
}

// An onlineCertificate is a new certificate for connections, and its key.
type onlineCertificate struct {
	certificate []byte // DER
	keyPEM      []byte
}

// maxName is how long a common name may be, in bytes: for all who read it (RFC
// 5280, appendix A).
const maxName = 64

// newOnline makes a certificate for connections. What it returns would be accepted
// by clients.
func newOnline(ca []byte, caKey auth.PrivateKey, host string, now time.Time) (o onlineCertificate, err error) {
	if host == "" || len(host) > maxName || !utf8.ValidString(host) {
		return o, fmt.Errorf("%.100q cannot be the name of a certificate: want 1 to %d bytes of text", host, maxName)
	}
	issuer, err := x509.ParseCertificate(ca)
	if err != nil {
		return o, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return o, err
	}
	subject, err := name(attribute{commonName, host})
	if err != nil {
		return o, err
	}
	issuerKey := issuer.SubjectKeyId
	if issuerKey == nil {
		issuerKey = keyID(caKey.Public())
	}
	begin := now.UTC().Truncate(time.Second)
	cert, err := certificate{
		serial: newSerial(), issuer: issuer.RawSubject, subject: subject, notBefore: begin, notAfter: begin.AddDate(0, 0, validity),
		key: key.Public(), issuerKey: issuerKey,
	}.sign(caKey)
	if err != nil {
		return o, err
	}
	if _, err := auth.VerifyRouterChain([][]byte{cert, ca}, now); err != nil {
		return o, err
	}
	return onlineCertificate{cert, keyPEM}, nil
}

// newKey returns a new Ed25519 key, and its file.
func newKey() (auth.PrivateKey, []byte, error) {
	k, err := auth.GenerateKey(smp.Ed25519)
	if err != nil {
		return auth.PrivateKey{}, nil, err
	}
	private, _ := k.Ed25519()
	form, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return auth.PrivateKey{}, nil, err
	}
	return k, encode(pemKey, form), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// readPEM returns the blocks in a file, DER, which must all be of one kind. No
// error shows what is in it.
func readPEM(file, kind string) ([][]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", file, maxFile)
	}
	rest, err := os.ReadFile(file) //nolint:gosec // in the folder that the operator names
	if err != nil {
		return nil, err
	}
	var blocks [][]byte
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != kind {
			return nil, fmt.Errorf("%s: it has a %q, want a %q only", file, block.Type, kind)
		}
		blocks, rest = append(blocks, block.Bytes), after
	}
	if len(blocks) == 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%s: not a PEM file with a %q", file, kind)
	}
	return blocks, nil
}

// readKey returns the private key in a file.
func readKey(file string) (auth.PrivateKey, error) {
	blocks, err := readPEM(file, pemKey)
	if err != nil {
		return auth.PrivateKey{}, err
	}
	if len(blocks) != 1 {
		return auth.PrivateKey{}, fmt.Errorf("%s: it has %d keys", file, len(blocks))
	}
	k, err := auth.ParsePrivateKey(blocks[0])
	if err != nil {
		return auth.PrivateKey{}, fmt.Errorf("%s: %w", file, err)
	}
	return k, nil
}

// publicKey returns the key of a certificate, zero if it is none of the protocol.
func publicKey(c *x509.Certificate) smp.PublicKey {
	k, err := smp.ParsePublicKey(c.RawSubjectPublicKeyInfo)
	if err != nil {
		return smp.PublicKey{}
	}
	return k
}

// readFingerprint returns the fingerprint in its file.
func readFingerprint(folder string) (smp.Fingerprint, error) {
	file := filepath.Join(folder, FingerprintFile)
	text, err := os.ReadFile(file) //nolint:gosec // in the folder that the operator names
	if err != nil {
		return smp.Fingerprint{}, err
	}
	f, err := smp.ParseFingerprint(string(bytes.TrimSpace(text)))
	if err != nil {
		return smp.Fingerprint{}, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

var errFingerprint = errors.New("the file fingerprint is of another router: ca.crt has been replaced")

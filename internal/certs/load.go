package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// ErrOnline says that the online certificate or its key cannot be used. [Rotate]
// makes another.
var ErrOnline = errors.New("the certificate for connections cannot be used")

// Loaded is what a router proves its identity with.
type Loaded struct {
	Credentials transport.Credentials
	Identity    smp.Fingerprint
	Warnings    []string // what an operator should know
}

// Load reads the certificates of a router and checks that clients accept them. The
// error joins all that is wrong; [ErrOnline] is among it if [Rotate] mends that.
func Load(folder string, now time.Time) (Loaded, error) {
	e := examine(folder, now)
	if len(e.problems) > 0 {
		return Loaded{}, fmt.Errorf("load certificates: %w", errors.Join(e.problems...))
	}
	return Loaded{transport.Credentials{Chain: e.chain, Key: e.key}, e.identity, e.warnings}, nil
}

// A Report is what is in the files of a router's certificates.
type Report struct {
	Folder      string       `json:"folder"`
	Fingerprint string       `json:"fingerprint,omitempty"` // identity of the router
	Server      *Certificate `json:"server,omitempty"`      // for connections
	CA          *Certificate `json:"ca,omitempty"`          // the authority
	CAKey       bool         `json:"ca_key"`                // its private key is in the folder
	Problems    []string     `json:"problems,omitempty"`    // for which smpq would not serve
	Warnings    []string     `json:"warnings,omitempty"`
}

// A Certificate is what a certificate says.
type Certificate struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Algorithm string    `json:"algorithm"` // of its key
	Serial    string    `json:"serial"`    // in hex
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	SHA256    string    `json:"sha256"` // of the certificate, in hex
}

// Inspect says what is in the files of a router's certificates. The error joins
// what is wrong with them, as that of [Load] does; the report has it as well.
func Inspect(folder string, now time.Time) (Report, error) {
	e := examine(folder, now)
	r := Report{Folder: folder, CAKey: e.caKey, Warnings: e.warnings}
	if !e.identity.IsZero() {
		r.Fingerprint = e.identity.String()
	}
	r.Server = describe(filepath.Join(folder, CertificateFile), e.online)
	r.CA = describe(filepath.Join(folder, CAFile), e.ca)
	for _, p := range e.problems {
		r.Problems = append(r.Problems, p.Error())
	}
	return r, errors.Join(e.problems...)
}

func describe(file string, certs []*x509.Certificate) *Certificate {
	if len(certs) == 0 {
		return nil
	}
	c := certs[0]
	sum := sha256.Sum256(c.Raw)
	return &Certificate{
		File: file, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Algorithm: algorithm(c),
		Serial: hex.EncodeToString(c.SerialNumber.Bytes()), NotBefore: c.NotBefore, NotAfter: c.NotAfter, SHA256: hex.EncodeToString(sum[:]),
	}
}

// algorithm names the key of a certificate.
func algorithm(c *x509.Certificate) string {
	if k := publicKey(c); !k.IsZero() {
		return k.Algorithm().String()
	}
	return c.PublicKeyAlgorithm.String()
}

// An examination is what was found in a folder.
type examination struct {
	online   []*x509.Certificate
	ca       []*x509.Certificate
	chain    [][]byte // both
	key      auth.PrivateKey
	identity smp.Fingerprint // zero if there is no authority
	caKey    bool
	problems []error
	warnings []string
}

// soon is before the end of a certificate when an operator should hear of it.
const soon = 30 * 24 * time.Hour

func examine(folder string, now time.Time) *examination {
	e := &examination{}
	in := func(name string) string { return filepath.Join(folder, name) }
	var err error
	if e.ca, err = readCertificates(in(CAFile)); err != nil {
		e.problem(err)
	}
	if e.online, err = readCertificates(in(CertificateFile)); err != nil {
		e.onlineProblem(err)
	}
	if e.key, err = readKey(in(KeyFile)); err != nil {
		e.onlineProblem(err)
	}
	e.chain = append(bytesOf(e.online), bytesOf(e.ca)...)
	e.checkCAKey(in(CAKeyFile))
	e.checkMode(in(KeyFile))
	e.checkOnline(folder, now)
	if len(e.online) > 0 && len(e.ca) > 0 {
		e.identity = smp.FingerprintOf(e.chain[1])
		e.checkChain(now)
		e.checkFingerprint(folder)
	}
	return e
}

func (e *examination) problem(err error) { e.problems = append(e.problems, err) }

// onlineProblem adds a problem that a new certificate for connections mends.
func (e *examination) onlineProblem(err error) { e.problem(fmt.Errorf("%w: %w", ErrOnline, err)) }

func (e *examination) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

func readCertificates(file string) ([]*x509.Certificate, error) {
	blocks, err := readPEM(file, pemCertificate)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, b := range blocks {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

func bytesOf(certs []*x509.Certificate) [][]byte {
	var all [][]byte
	for _, c := range certs {
		all = append(all, c.Raw)
	}
	return all
}

// checkOnline looks at the first certificate, apart from who signed it.
func (e *examination) checkOnline(folder string, now time.Time) {
	if len(e.online) == 0 {
		return
	}
	leaf, key := e.online[0], publicKey(e.online[0])
	switch {
	case key.Algorithm() == smp.Ed448:
		e.onlineProblem(errors.New("it has an Ed448 key, which this program's TLS does not know"))
	case key.Algorithm() != smp.Ed25519:
		e.onlineProblem(fmt.Errorf("it has an %s key, want Ed25519", algorithm(leaf)))
	case !e.key.IsZero() && e.key.Public() != key:
		e.onlineProblem(fmt.Errorf("%s is not its key", filepath.Join(folder, KeyFile)))
	case now.Before(leaf.NotAfter) && now.Add(soon).After(leaf.NotAfter):
		e.warn("the certificate for connections expires on %s: renew it with smpq cert rotate", leaf.NotAfter.Format(time.DateTime))
	}
}

// checkChain looks at all certificates as clients do.
func (e *examination) checkChain(now time.Time) {
	if _, err := auth.VerifyRouterChain(e.chain, now); err != nil {
		if _, wrong := auth.VerifyServiceChain(bytesOf(e.ca), now); wrong != nil {
			e.problem(err) // no other certificate would do
		} else {
			e.onlineProblem(err)
		}
	}
	for _, ca := range e.ca {
		if now.Before(ca.NotAfter) && now.Add(soon).After(ca.NotAfter) {
			e.warn("the certificate of the authority (%s) expires on %s, and with it the identity of the router", ca.Subject, ca.NotAfter.Format(time.DateTime))
		}
	}
}

func (e *examination) checkFingerprint(folder string) {
	stated, err := readFingerprint(folder)
	switch {
	case err != nil:
		e.problem(err)
	case stated != e.identity:
		e.problem(fmt.Errorf("%w: it is %s, of ca.crt it is %s", errFingerprint, stated, e.identity))
	}
}

// checkCAKey warns of a key that a router does not need.
func (e *examination) checkCAKey(file string) {
	if _, err := os.Lstat(file); err != nil {
		return
	}
	e.caKey = true
	e.warn("%s is on this machine: who gets it can pretend to be this router. Store it safely elsewhere, and delete it here", file)
	e.checkMode(file)
}

// checkMode warns of a key that everybody can read.
func (e *examination) checkMode(file string) {
	const others fs.FileMode = 0o007
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&others != 0 {
		e.warn("%s is open to all users of this machine (mode %04o): chmod o= %s", file, info.Mode().Perm(), file)
	}
}
